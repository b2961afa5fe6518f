//! Layer norm's gradients of weight and bias: sums of columns, made where rows are taken, on the way to dx if that is wanted.
//! An invocation takes some rows one after the other, which are a leaf of the tree over all rows.

use super::geometry::MOST_SPAN;
use super::planner::Planner;
use super::{Geometry, Kernel, Over, PARTIAL, Pass, UNIT, scratch, window};
use crate::error::Error;
use crate::layout::Walk;
use crate::op::Direction;
use crate::profile::Profile;

/// Rows side by side in a workgroup, where they are not held on chip: their neighbours in memory should stay so, and their
/// columns' sums be few.
const ABREAST: u32 = 4;

/// Most rows that an invocation takes one after the other: what is summed so is rounded each time.
const MOST_ROUNDS: u64 = 64;

impl Planner<'_> {
    /// Whether statistics belong to rows and weights to columns (layer and RMS norm).
    pub(super) fn has_weights_of_columns(&self) -> bool {
        self.problem.layout.stat_of_affine.position != 0
    }

    /// Layer norm's rows, if they fit a chip with the sums of their columns, whether those are wanted or not: for the same
    /// bits.
    pub(super) fn beside_columns(&self, over: Over) -> Result<Option<Geometry>, Error> {
        if !self.has_weights_of_columns() || over != Over::Stats || self.problem.op.direction() != Direction::Backward {
            return Ok(None);
        }
        let max_units = self.max_units();
        let profile = Profile { max_units, max_units_in_parts: 0, ..*self.profile };
        Ok(Some(Geometry::new(self.rows(), &profile)?).filter(|geometry| geometry.tiles == 1))
    }

    /// Gradients of weight and bias, and what else is written, if it `projects` dx: in the first way that there is room for.
    pub(super) fn sum_columns(&mut self, projects: bool) -> Result<(), Error> {
        use Direction::Backward;
        let on_chip = self.beside_columns(Over::Stats)?;
        let rounds = self.rounds(on_chip);
        if projects {
            let geometry = on_chip.map(|geometry| geometry.with_rounds(rounds));
            if let Some(geometry) = geometry.filter(|g| window::holds(g, Over::Stats, self.problem, self.profile)) {
                self.columns(Kernel::Rows, geometry, |p| p.reduces = true)?;
                if self.has_room() {
                    return Ok(());
                }
                self.passes.clear();
            }
            self.reduce(Backward, Over::Stats, 1)?;
            self.columns(Kernel::Apply, self.split(rounds)?, |p| {
                p.reduces = true;
                p.partials_in = 1;
            })?;
            if self.has_room() {
                return Ok(());
            }
            // Sums of columns where those of rows were.
            self.passes.clear();
            self.reduce_and_apply(Backward, Over::Stats, true, 0)?;
        }
        self.columns(Kernel::Apply, self.split(rounds)?, |p| {
            if projects {
                p.writes.clear();
            }
        })
    }

    /// Whether partial results fit a binding.
    pub(super) fn has_room(&self) -> bool {
        scratch(self.problem, &self.passes) <= self.profile.max_binding_size
    }

    fn rows(&self) -> &Walk {
        &self.problem.layout.stats
    }

    fn max_units(&self) -> u32 {
        self.profile.max_units.min(self.profile.max_units_beside_columns)
    }

    /// Rows that an invocation takes, wherever their elements are held: more if there are enough for all workgroups, as a
    /// sum of columns is as large as four elements.
    fn rounds(&self, on_chip: Option<Geometry>) -> u32 {
        let Walk { outer: rows, len, .. } = *self.rows();
        let most = (MOST_SPAN / len).min(rows).max(2);
        let mut rounds = (UNIT * u64::from(self.profile.max_strided_units)).min(most);
        if let Some(geometry) = on_chip {
            let rows_at_once = u64::from(geometry.targets) * u64::from(self.profile.busy_workgroups);
            while rounds < MOST_ROUNDS && rows >= 2 * rounds * rows_at_once {
                rounds *= 2;
            }
        }
        rounds as u32
    }

    /// A pass that sums columns: to the gradients if one workgroup takes all rows, or to planes that are merged.
    fn columns(&mut self, kernel: Kernel, geometry: Geometry, set: impl FnOnce(&mut Pass)) -> Result<(), Error> {
        let planes = geometry.blocks(self.rows().outer);
        self.push(kernel, Direction::Backward, Over::Stats, geometry, |p| {
            set(p);
            p.finishes = planes == 1;
        })?;
        if planes == 1 { Ok(()) } else { self.merge_to_weights(planes, self.partials_at()) }
    }

    /// Tiles of rows that are not held: with fewer lanes a row, and more rows, until there is room for sums of columns; with
    /// more lanes than a row needs where a binding does not hold so many rows.
    fn split(&self, rounds: u32) -> Result<Geometry, Error> {
        let workgroup = self.profile.workgroup;
        let leaves = self.rows().outer.div_ceil(rounds.into()).next_power_of_two();
        let most = workgroup / leaves.min(ABREAST.min(workgroup).into()) as u32;
        let lanes = u64::from(most).min(self.tiles(most, rounds)?.tree.leaves) as u32;
        let held = |lanes| {
            let geometry = self.tiles(lanes, rounds)?;
            window::check(&geometry, Over::Stats, self.problem, self.profile).map(|()| geometry)
        };
        let fewer = std::iter::successors(Some(lanes), |n| (*n > 1).then_some(n / 2));
        let fewer: Vec<Geometry> = fewer.filter_map(|lanes| held(lanes).ok()).collect();
        let mut more = std::iter::successors(Some(2 * lanes), |n| Some(2 * n)).take_while(|n| *n < workgroup).map(held);
        match fewer.iter().find(|geometry| self.planes_fit(geometry)).or(fewer.last()) {
            Some(geometry) => Ok(*geometry),
            None => more.find(Result::is_ok).unwrap_or_else(|| held(workgroup)),
        }
    }

    /// Tiles of so many lanes; of fewer units each where there would be few workgroups.
    fn tiles(&self, lanes: u32, rounds: u32) -> Result<Geometry, Error> {
        let units = std::iter::successors(Some(self.max_units()), |n| (*n > 1).then_some(n / 2));
        let of = |max_units| Geometry::of_columns(self.rows(), &Profile { max_units, ..*self.profile }, lanes, rounds);
        let workgroups = |g: &Geometry| g.tiles * g.blocks(self.rows().outer);
        let enough = |g: &Result<Geometry, Error>| {
            g.as_ref().is_ok_and(|g| workgroups(g) >= self.profile.busy_workgroups.into())
        };
        units.map(of).find(enough).unwrap_or_else(|| of(1))
    }

    /// Whether a binding holds the sums of columns behind what is there.
    fn planes_fit(&self, geometry: &Geometry) -> bool {
        let Walk { outer: rows, len, .. } = *self.rows();
        let there = self.passes.last().map_or(0, |p| p.partials_out_at + p.all_partials_out(self.problem));
        let planes = match geometry.blocks(rows) {
            1 => 0,
            planes => match Geometry::of_planes(planes, self.profile).tiles {
                1 => planes,
                // Behind those that they are merged from.
                merged => planes + merged,
            },
        };
        planes.saturating_mul(len).saturating_add(there).saturating_mul(PARTIAL) <= self.profile.max_binding_size
    }
}
