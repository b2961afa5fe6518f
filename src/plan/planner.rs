//! Which passes a call takes, and what each of them reads and writes.

use super::{Geometry, Kernel, Over, Pass, Problem, Tensor, scratch, window};
use crate::error::Error;
use crate::op::{Direction, Fusion, Op, Residual, Statistics};
use crate::profile::Profile;

/// Adds the passes of a call one by one.
pub(super) struct Planner<'a> {
    pub problem: &'a Problem,
    pub profile: &'a Profile,
    pub passes: Vec<Pass>,
    /// Partial results before this place are still needed.
    pub kept: u64,
}

impl Planner<'_> {
    pub fn forward(&mut self) -> Result<(), Error> {
        use Direction::Forward;
        match self.problem.statistics {
            Statistics::Running => self.element_wise(Forward),
            Statistics::Batch => match self.forward_over()? {
                Over::Instances => self.sum_and_apply(Forward, Over::Instances, false),
                over => self.reduce_and_apply(Forward, over, true, 0),
            },
        }?;
        let by_average = self.problem.tracks && !self.problem.layout.is_per_channel();
        if self.problem.statistics == Statistics::Batch && by_average {
            let geometry = Geometry::of_targets(self.profile);
            self.push(Kernel::Running, Forward, Over::Stats, geometry, |_| {})?;
        }
        Ok(())
    }

    /// One partial result a target; in a backward pass these are also the shard's own dweight and dbias.
    pub fn local_sums(&mut self, direction: Direction) -> Result<(), Error> {
        if self.problem.layout.elements == 0 {
            self.merge_of(0, direction, Over::Stats)?;
        } else {
            self.reduce(direction, Over::Stats, 1)?;
        }
        if let Some(last) = self.passes.last_mut() {
            last.finishes = direction == Direction::Backward;
        }
        Ok(())
    }

    pub fn merge_sums(&mut self, direction: Direction, shards: u32) -> Result<(), Error> {
        self.merge_planes(shards.into(), 0, direction, Over::Stats)
    }

    /// Sums that came from elsewhere are the one partial result of each target.
    pub fn apply_sums(&mut self, direction: Direction) -> Result<(), Error> {
        if self.problem.layout.elements == 0 {
            // An empty shard has nothing to normalise, but running statistics like everyone's.
            if direction == Direction::Forward {
                self.merge_of(1, direction, Over::Stats)?;
                self.finish();
            }
            return Ok(());
        }
        if self.tensors_written(Kernel::Apply, direction).is_empty() {
            return Ok(());
        }
        if let Some(columns) = self.columns_of_rows() {
            if direction == Direction::Forward {
                self.merge_of(1, direction, Over::Stats)?;
            }
            return self.apply_to_columns(direction, columns);
        }
        let geometry = self.element_geometry(Over::Stats)?;
        self.push(Kernel::Apply, direction, Over::Stats, geometry, |p| {
            p.reduces = true;
            p.finishes = true;
            p.partials_in = 1;
        })
    }

    /// The last pass, a merge, writes results per target in place of partial results.
    pub(super) fn finish(&mut self) {
        if let Some(last) = self.passes.last_mut() {
            (last.finishes, last.partials_out) = (true, 0);
        }
    }

    /// Everything a reduction feeds: on chip in one pass, or split over several. `writes`: whether elements are written, or
    /// only results per target. `partials_out`: 1 if the last pass gives each target's sums, too.
    pub(super) fn reduce_and_apply(
        &mut self,
        direction: Direction,
        over: Over,
        writes: bool,
        partials_out: u64,
    ) -> Result<(), Error> {
        let geometry = self.geometry(over)?;
        let columns = if writes && over == Over::Stats { self.columns_of_rows() } else { None };
        let shares_words = columns.is_some() && self.writes_halves(direction);
        // Words that two channels share would be stored by atomics. Software drivers had better read elements again, which most
        // leaves are anyway.
        if geometry.tiles == 1 && !(shares_words && self.profile.max_units_in_parts > 0) {
            let kernel = Kernel::Rows;
            return self.push(kernel, direction, over, geometry, |p| {
                p.reduces = true;
                p.finishes = true;
                p.partials_out = partials_out;
                if !writes {
                    p.writes.clear();
                }
            });
        }
        if !writes {
            self.reduce(direction, over, 1)?;
            self.finish();
            return Ok(());
        }
        let elements = self.element_geometry(over)?;
        let most = self.most_applied(&elements);
        // Without halves a merge more would be too much.
        if let Some(columns) = columns.filter(|_| shares_words || geometry.tiles > most) {
            self.reduce(direction, over, 1)?;
            return self.apply_to_columns(direction, columns);
        }
        self.reduce(direction, over, most)?;
        let partials_in = self.partials_out();
        self.apply(direction, over, elements, |p| {
            p.finishes = true;
            p.partials_in = partials_in;
            p.partials_out = partials_out;
        })
    }

    /// Elements are written by what has been reduced. `merges`: how the pass takes the partial results that are left.
    pub(super) fn apply(
        &mut self,
        direction: Direction,
        over: Over,
        elements: Geometry,
        merges: impl FnOnce(&mut Pass),
    ) -> Result<(), Error> {
        let merged = self.partials_out() == 1 && self.passes.last().is_some_and(|p| p.kernel == Kernel::Merge);
        if merged && direction == Direction::Forward {
            // Statistics are computed once, not by everyone who writes.
            self.finish();
            return self.push(Kernel::Apply, direction, over, elements, |_| {});
        }
        self.push(Kernel::Apply, direction, over, elements, |p| {
            p.reduces = true;
            merges(p);
        })
    }

    /// Partial results of a target that a pass over elements merges at the most; where there are more, others do.
    pub(super) fn most_applied(&self, elements: &Geometry) -> u64 {
        if self.profile.merges_first { 1 } else { elements.leaves.into() }
    }

    /// Leaves to at most `most` partial results a target, or to one.
    pub(super) fn reduce(&mut self, direction: Direction, over: Over, most: u64) -> Result<(), Error> {
        let geometry = self.geometry(over)?;
        self.push(Kernel::Reduce, direction, over, geometry, |p| {
            p.reduces = true;
            p.partials_out = geometry.tiles;
        })?;
        // A dispatch more costs less than what all workgroups of a pass over elements do, so then it is to one.
        while geometry.tiles > most && self.partials_out() > 1 {
            self.merge(direction, over)?;
        }
        Ok(())
    }

    /// Planes of partial results, one after the other from `at` on, to one a target.
    pub(super) fn merge_planes(&mut self, planes: u64, at: u64, direction: Direction, over: Over) -> Result<(), Error> {
        let geometry = Geometry::of_planes(planes, self.profile);
        self.merge_as(geometry, planes, at, direction, over)?;
        while self.passes.last().is_some_and(|p| p.partials_out > 1) {
            self.merge(direction, over)?;
        }
        Ok(())
    }

    /// Whether partial results fit a binding.
    pub(super) fn has_room(&self) -> bool {
        scratch(self.problem, &self.passes) <= self.profile.max_binding_size
    }

    /// Adds passes, if their partial results fit a binding; says whether they do.
    pub(super) fn attempt(&mut self, plan: impl FnOnce(&mut Self) -> Result<(), Error>) -> Result<bool, Error> {
        let before = self.passes.len();
        plan(self)?;
        let fits = self.has_room();
        if !fits {
            self.passes.truncate(before);
        }
        Ok(fits)
    }

    /// Where the last partial results are.
    pub(super) fn partials_at(&self) -> u64 {
        self.passes.last().map_or(0, |p| p.partials_out_at)
    }

    /// How many of each target.
    pub(super) fn partials_out(&self) -> u64 {
        self.passes.last().map_or(1, |p| p.partials_out)
    }

    fn merge(&mut self, direction: Direction, over: Over) -> Result<(), Error> {
        self.merge_of(self.partials_out(), direction, over)
    }

    pub(super) fn merge_of(&mut self, partials_in: u64, direction: Direction, over: Over) -> Result<(), Error> {
        let geometry = Geometry::of_partials(partials_in.max(1), self.profile);
        self.merge_as(geometry, partials_in, self.partials_at(), direction, over)
    }

    /// Tiles of partial results to one each.
    fn merge_as(
        &mut self,
        geometry: Geometry,
        partials_in: u64,
        at: u64,
        direction: Direction,
        over: Over,
    ) -> Result<(), Error> {
        self.push(Kernel::Merge, direction, over, geometry, |p| {
            p.reduces = true;
            p.planes_in = geometry.tree.side_by_side;
            p.partials_in = partials_in;
            p.partials_in_at = at;
            p.partials_out = geometry.tiles;
        })
    }

    pub(super) fn push(
        &mut self,
        kernel: Kernel,
        direction: Direction,
        over: Over,
        geometry: Geometry,
        set: impl FnOnce(&mut Pass),
    ) -> Result<(), Error> {
        // Of what another call has reduced.
        let is_second_half = matches!(self.problem.op, Op::ApplyMoments | Op::ApplyGradientSums(_));
        let mut pass = Pass {
            kernel,
            direction,
            over,
            geometry,
            reduces: false,
            finishes: false,
            partials_in: 0,
            partials_in_at: self.partials_at(),
            planes_in: false,
            weighs: false,
            partials_out: 0,
            partials_out_at: self.kept,
            reads: Vec::new(),
            writes: self.tensors_written(kernel, direction),
            reversed: kernel == Kernel::Apply && (is_second_half || self.passes.iter().any(|p| !p.reads.is_empty())),
            dispatches: Vec::new(),
        };
        set(&mut pass);
        pass.reads = self.reads(&pass);
        pass.dispatches = window::dispatches(&pass, self.problem, self.profile)?;
        if pass.reversed {
            pass.dispatches.reverse();
        }
        // Before the ones that come in, if there is room. A merge of none (of a shard without samples) loads the first one all
        // the same, so nobody may write it meanwhile.
        let incoming = pass.all_partials_in(self.problem).max(u64::from(kernel == Kernel::Merge));
        if pass.partials_in_at < self.kept + pass.all_partials_out(self.problem) {
            // Where nothing comes in, nothing is in the way.
            pass.partials_in_at = if incoming == 0 { 0 } else { pass.partials_in_at };
            pass.partials_out_at = self.kept.max(pass.partials_in_at + incoming);
        }
        self.passes.push(pass);
        Ok(())
    }

    /// Tensors that a kernel writes in a direction.
    pub(super) fn tensors_written(&self, kernel: Kernel, direction: Direction) -> Vec<Tensor> {
        if !matches!(kernel, Kernel::Rows | Kernel::Apply) {
            return vec![];
        }
        let mut writes = Vec::new();
        match (direction, self.problem.op) {
            (Direction::Backward, Op::Backward(wanted) | Op::ApplyGradientSums(wanted)) => {
                writes.extend(wanted.dx.then_some(Tensor::Output));
                writes.extend(wanted.dresidual.then_some(Tensor::SecondOutput));
            }
            (Direction::Backward, _) => {}
            (Direction::Forward, _) => {
                writes.push(Tensor::Output);
                writes.extend((self.problem.fusion.residual == Residual::Before).then_some(Tensor::SecondOutput));
            }
        }
        writes
    }

    fn reads(&self, pass: &Pass) -> Vec<Tensor> {
        let Fusion { residual, relu } = self.problem.fusion;
        let loads_elements = matches!(pass.kernel, Kernel::Rows | Kernel::Apply | Kernel::Reduce);
        if !loads_elements {
            return vec![];
        }
        let writes_output = pass.writes.contains(&Tensor::Output);
        match pass.direction {
            Direction::Forward => {
                let applies = pass.kernel != Kernel::Reduce;
                let adds = residual == Residual::Before || (applies && residual == Residual::After);
                [Some(Tensor::Input), adds.then_some(Tensor::Residual)].into_iter().flatten().collect()
            }
            Direction::Backward => {
                let mask = self.problem.fusion.masks_by_residual();
                let dsum = residual == Residual::Before && writes_output;
                [
                    (pass.reduces || relu || pass.sums_columns()).then_some(Tensor::Input),
                    (mask || dsum).then_some(Tensor::Residual),
                    Some(Tensor::Gradient),
                ]
                .into_iter()
                .flatten()
                .collect()
            }
        }
    }

    fn geometry(&self, over: Over) -> Result<Geometry, Error> {
        let walk = &self.problem.walk(over);
        let geometry = match self.beside_columns(over)? {
            Some(geometry) => geometry,
            // No kernel keeps their elements.
            None if over == Over::Instances => Geometry::of_sums(walk, self.profile)?,
            None => Geometry::new(walk, self.profile)?,
        };
        window::fitting(geometry, over, self.problem, self.profile)
    }
}
