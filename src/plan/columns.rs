//! Layer norm's gradients of weight and bias: sums of columns, made where rows are taken, so that no tensor is read for them.
//! An invocation takes some rows one after the other, which are a leaf of the tree over all rows.

use super::geometry::MOST_SPAN;
use super::planner::Planner;
use super::{Geometry, Kernel, Over, PARTIAL, UNIT, window};
use crate::error::Error;
use crate::layout::Walk;
use crate::op::Direction;
use crate::profile::Profile;

/// Rows side by side in a workgroup, where they are not held on chip: their neighbours in memory should stay so, and their
/// columns' sums be few.
const ABREAST: u32 = 4;

/// Most rows that an invocation takes one after the other: what is summed so is rounded each time.
const MOST_ROUNDS: u64 = 64;

/// Workgroups that keep a large device busy.
const BUSY: u64 = 512;

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
        let profile = self.profile_beside_columns();
        Ok(Some(Geometry::new(&self.problem.layout.stats, &profile)?).filter(|geometry| geometry.tiles == 1))
    }

    /// What is written of rows, if `projects` with their statistics' gradients, and the gradients of weight and bias.
    pub(super) fn sum_columns(&mut self, projects: bool) -> Result<(), Error> {
        use Direction::Backward;
        let on_chip = self.on_chip()?.filter(|geometry| projects && self.has_room(geometry, 0));
        let (kernel, geometry) = match on_chip {
            Some(geometry) => (Kernel::Rows, geometry),
            None => (Kernel::Apply, self.split(if projects { self.rows().outer } else { 0 })?),
        };
        let is_split = projects && kernel == Kernel::Apply;
        if is_split {
            self.reduce(Backward, Over::Stats, 1)?;
        }
        let planes = geometry.blocks(self.rows().outer);
        self.push(kernel, Backward, Over::Stats, geometry, |p| {
            p.reduces = projects;
            p.partials_in = is_split.into();
            p.finishes = planes == 1;
        })?;
        if planes == 1 { Ok(()) } else { self.merge_to_weights(planes, self.partials_at()) }
    }

    fn rows(&self) -> &Walk {
        &self.problem.layout.stats
    }

    fn profile_beside_columns(&self) -> Profile {
        let max_units = self.profile.max_units.min(self.profile.max_units_beside_columns);
        Profile { max_units, max_units_in_parts: 0, ..*self.profile }
    }

    /// Rows that an invocation takes, wherever their elements are held: more if there are enough for all workgroups, as a
    /// sum of columns is as large as four elements.
    fn rounds(&self) -> Result<u32, Error> {
        let Walk { outer: rows, len, .. } = *self.rows();
        let most = (MOST_SPAN / len).min(rows).max(2);
        let mut rounds = (UNIT * u64::from(self.profile.max_strided_units)).min(most);
        if let Some(geometry) = self.beside_columns(Over::Stats)? {
            let abreast = u64::from(geometry.targets);
            while rounds < MOST_ROUNDS && rows >= 2 * rounds * abreast * BUSY {
                rounds *= 2;
            }
        }
        Ok(rounds as u32)
    }

    /// Whole rows on chip.
    fn on_chip(&self) -> Result<Option<Geometry>, Error> {
        let rounds = self.rounds()?;
        Ok(self.beside_columns(Over::Stats)?.map(|geometry| geometry.with_rounds(rounds)))
    }

    /// Tiles of rows, beside each other so many that there is room for their columns' sums. `sums`: of rows, which come in.
    fn split(&self, sums: u64) -> Result<Geometry, Error> {
        let (rows, rounds, profile) = (self.rows(), self.rounds()?, self.profile_beside_columns());
        let leaves = rows.outer.div_ceil(rounds.into()).next_power_of_two();
        let wanted = leaves.min(ABREAST.min(profile.workgroup).into()) as u32;
        let abreast = std::iter::successors(Some(1), |n| Some(2 * n)).take_while(|&n| n <= profile.workgroup);
        let checked = |abreast| {
            let geometry = Geometry::of_columns(rows, &profile, abreast, rounds)?;
            window::check(&geometry, Over::Stats, self.problem, self.profile).map(|()| geometry)
        };
        let mut all: Vec<Result<Geometry, Error>> = abreast.map(checked).collect();
        let fitting = || all.iter().flatten();
        let is_enough = |g: &&Geometry| g.targets >= wanted * rounds && self.has_room(g, sums);
        match fitting().find(is_enough).or_else(|| fitting().last()) {
            Some(geometry) => Ok(*geometry),
            None => all.swap_remove(0),
        }
    }

    /// Whether bindings hold what a workgroup takes, and all sums of columns behind the `sums` of rows.
    fn has_room(&self, geometry: &Geometry, sums: u64) -> bool {
        let Walk { outer: rows, len, .. } = *self.rows();
        let planes = match geometry.blocks(rows) {
            1 => 0,
            // Those that they are merged to lie behind them.
            planes => planes + Geometry::of_planes(planes, self.profile).tiles,
        };
        let bytes = planes.saturating_mul(len).saturating_add(sums).saturating_mul(PARTIAL);
        bytes <= self.profile.max_binding_size && window::holds(geometry, Over::Stats, self.problem, self.profile)
    }
}
