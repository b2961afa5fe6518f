//! Layer norm's gradients of weight and bias: sums of columns, made where rows are taken, on the way to dx if that is wanted.
//! An invocation takes some rows one after the other, which are a leaf of the tree over all rows.

use super::geometry::MOST_SPAN;
use super::planner::Planner;
use super::{Geometry, Kernel, Over, Pass, UNIT, window};
use crate::error::Error;
use crate::layout::Walk;
use crate::op::Direction;
use crate::profile::Profile;

/// Rows that a workgroup takes at the same time, where they are not held on chip: their neighbours in memory should stay so,
/// and their columns' sums be few.
const ROWS_AT_ONCE: u32 = 4;

/// Most rows that an invocation takes one after the other so that sums are fewer: what is summed so is rounded each time.
const MOST_ROUNDS: u64 = 64;

impl Planner<'_> {
    /// Layer norm's rows, if they fit a chip with the sums of their columns, whether those are wanted or not: for the same
    /// bits.
    pub(super) fn beside_columns(&self, over: Over) -> Result<Option<Geometry>, Error> {
        if !self.problem.layout.has_weights_of_columns()
            || over != Over::Stats
            || self.problem.op.direction() != Direction::Backward
        {
            return Ok(None);
        }
        let max_units = self.max_units();
        let profile = Profile { max_units, max_units_in_parts: 0, ..*self.profile };
        Ok(Some(Geometry::new(&self.rows(), &profile)?).filter(|geometry| geometry.tiles == 1))
    }

    /// Gradients of weight and bias, and what else is written. `projects`: whether dx is, which sums of rows are needed for.
    pub(super) fn sum_columns(&mut self, projects: bool) -> Result<(), Error> {
        let on_chip = self.beside_columns(Over::Stats)?;
        let rounds = self.rounds(on_chip);
        if !projects {
            return self.columns_of_tiles(rounds, |_| {}).map(|_| ());
        }
        if let Some(geometry) = on_chip.map(|geometry| geometry.with_rounds(rounds)).filter(|g| self.holds(g))
            && self.attempt(|planner| planner.columns(Kernel::Rows, geometry, |p| p.reduces = true))?
        {
            return Ok(());
        }
        self.reduce(Direction::Backward, Over::Stats, 1)?;
        let fits = self.columns_of_tiles(rounds, |p| {
            p.reduces = true;
            p.partials_in = 1;
        })?;
        if !fits {
            // Sums of columns where those of rows were; first, as dx may lie over what they are of.
            self.passes.clear();
            self.columns_of_tiles(rounds, |p| p.writes.clear())?;
            self.reduce_and_apply(Direction::Backward, Over::Stats, true, 0)?;
        }
        Ok(())
    }

    fn rows(&self) -> Walk {
        self.problem.walk(Over::Stats)
    }

    fn holds(&self, geometry: &Geometry) -> bool {
        window::holds(geometry, Over::Stats, self.problem, self.profile)
    }

    /// Longest leaf of a row beside which columns are summed.
    fn max_units(&self) -> u32 {
        self.profile.max_units.min(self.profile.max_units_beside_columns)
    }

    /// Rows that an invocation takes, in whatever way, for the same bits: leaves of about one size. More of those that are on
    /// chip, if there are enough for all workgroups, as a sum of columns is as large as four elements.
    fn rounds(&self, on_chip: Option<Geometry>) -> u32 {
        let (rows, len) = (self.rows().targets(), self.rows().len);
        let most = (MOST_SPAN / (UNIT * len)).clamp(1, self.profile.max_strided_units.into());
        let units = rows.div_ceil(UNIT);
        // Two at least, which tells passes that sum columns from others.
        let mut rounds = (UNIT * units.div_ceil(units.div_ceil(most))).min(rows).max(2);
        if let Some(geometry) = on_chip {
            let of_all_workgroups = u64::from(geometry.targets) * u64::from(self.profile.busy_workgroups);
            while 2 * rounds <= MOST_ROUNDS && rows >= 2 * rounds * of_all_workgroups {
                rounds *= 2;
            }
        }
        rounds as u32
    }

    /// A pass that sums columns: to the gradients if one workgroup takes all rows, or to planes that are merged.
    fn columns(&mut self, kernel: Kernel, geometry: Geometry, set: impl FnOnce(&mut Pass)) -> Result<(), Error> {
        let planes = geometry.blocks(self.rows().targets());
        self.push(kernel, Direction::Backward, Over::Stats, geometry, |p| {
            set(p);
            p.finishes = planes == 1;
        })?;
        if planes == 1 { Ok(()) } else { self.merge_to_weights(planes, self.partials_at()) }
    }

    /// The same over tiles of rows that are not held, the first ones whose sums there is room for; false if there are none.
    fn columns_of_tiles(&mut self, rounds: u32, set: impl Fn(&mut Pass)) -> Result<bool, Error> {
        let before = self.passes.len();
        for geometry in self.of_tiles(rounds)? {
            self.passes.truncate(before);
            self.columns(Kernel::Apply, geometry, &set)?;
            if self.has_room() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Ways to cut rows into tiles, best first: with fewer and fewer lanes a row, so with more rows and fewer sums of columns;
    /// with more lanes, though some may idle, where bindings do not hold so many rows.
    fn of_tiles(&self, rounds: u32) -> Result<Vec<Geometry>, Error> {
        let workgroup = self.profile.workgroup;
        let leaves = self.rows().targets().div_ceil(rounds.into()).next_power_of_two();
        let most = workgroup / leaves.min(ROWS_AT_ONCE.min(workgroup).into()) as u32;
        let lanes = u64::from(most).min(self.of_lanes(most, rounds)?.tree.leaves) as u32;
        let fewer = std::iter::successors(Some(lanes), |n| (*n > 1).then_some(n / 2));
        let more = std::iter::successors(Some(2 * lanes), |n| Some(2 * n)).take_while(|n| *n <= workgroup);
        let mut all: Vec<Geometry> =
            fewer.chain(more).map(|lanes| self.of_lanes(lanes, rounds)).collect::<Result<_, _>>()?;
        let fewest_rows = all.iter().min_by_key(|geometry| geometry.targets).copied();
        all.retain(|geometry| self.holds(geometry));
        if let Some(geometry) = fewest_rows.filter(|_| all.is_empty()) {
            window::check(&geometry, Over::Stats, self.problem, self.profile)?;
        }
        all.sort_by_key(|geometry| !window::are_few(geometry, Over::Stats, self.problem, self.profile));
        Ok(all)
    }

    /// Tiles of so many lanes; of fewer units each where there would be few workgroups.
    fn of_lanes(&self, lanes: u32, rounds: u32) -> Result<Geometry, Error> {
        let units = std::iter::successors(Some(self.max_units()), |n| (*n > 1).then_some(n / 2));
        let of = |max_units| Geometry::of_columns(&self.rows(), &Profile { max_units, ..*self.profile }, lanes, rounds);
        let are_enough =
            |g: &Geometry| g.tiles * g.blocks(self.rows().targets()) >= self.profile.busy_workgroups.into();
        units.map(of).find(|g| g.as_ref().is_ok_and(are_enough)).unwrap_or_else(|| of(1))
    }
}
