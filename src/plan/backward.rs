//! Backward passes: where gradients of weight and bias are sums over other elements than statistics are, they are summed on
//! the way where that is possible, so that no tensor is read for them.

use super::geometry::ELEMENTS_OF_PARTIAL;
use super::planner::Planner;
use super::{Geometry, Kernel, Over, Tree, scratch, window};
use crate::error::Error;
use crate::layout::{IndexMap, Layout};
use crate::op::{Direction, Gradients, Statistics};

impl Planner<'_> {
    pub fn backward(&mut self, wanted: Gradients) -> Result<(), Error> {
        use Direction::Backward;
        let writes = wanted.dx || wanted.dresidual;
        let projects = wanted.dx && self.problem.statistics == Statistics::Batch;
        if self.problem.layout.is_per_channel() {
            return match (projects || wanted.affine, writes) {
                (true, _) => self.reduce_and_apply(Backward, Over::Stats, writes, 0),
                (false, true) => self.element_wise(Backward),
                (false, false) => Ok(()),
            };
        }
        if projects && self.on_the_way(wanted.affine)? {
            if scratch(self.problem, &self.passes) <= self.profile.max_binding_size {
                return Ok(());
            }
            self.passes.clear();
            self.kept = 0;
        }
        if projects {
            self.reduce_and_apply(Backward, Over::Stats, true, 0)?;
        } else if writes {
            self.element_wise(Backward)?;
        }
        if wanted.affine {
            self.reduce_and_apply(Backward, Over::Affine, false, 0)?;
        }
        Ok(())
    }

    /// dx, and gradients of weight and bias without reading the tensors for them, if there is a way.
    fn on_the_way(&mut self, affine: bool) -> Result<bool, Error> {
        if self.sums_channels_of_groups()? {
            self.sum_and_project(affine)?;
            return Ok(true);
        }
        let planes = if affine { self.project_and_sum()? } else { None };
        if let Some(planes) = planes {
            self.merge_planes(planes, self.partials_at(), Direction::Backward, Over::Affine)?;
            self.finish();
        }
        Ok(planes.is_some())
    }

    /// Whether statistics are sums over whole channels of a sample (group norm), too large for a chip, while channels are
    /// not too small: their sums then serve both the statistics and the weights, whatever is asked for, for the same bits.
    fn sums_channels_of_groups(&self) -> Result<bool, Error> {
        let Layout { affine_of_stats, stat_of_affine, affine, .. } = self.problem.layout;
        let channels = affine_of_stats != IndexMap::OF_TARGET && stat_of_affine.position == 0;
        let large = affine.len >= ELEMENTS_OF_PARTIAL;
        Ok(channels && large && Geometry::new(&self.problem.walk(Over::Stats), self.profile)?.tiles > 1)
    }

    /// Group norm: sums of each sample's channels, of which those of a group, weighed, give dx, and those of all samples
    /// the gradients of weight and bias.
    fn sum_and_project(&mut self, affine: bool) -> Result<(), Error> {
        use Direction::Backward;
        let layout = &self.problem.layout;
        let (samples, size, channels) = (layout.affine.segments, layout.stat_of_affine.target_div, layout.affine.inner);
        self.sum_segments()?;
        let sums_at = self.partials_at();
        self.kept = sums_at + samples * channels;
        let elements = self.element_geometry(Over::Stats)?;
        let mut weighs = true;
        let mut partials_in = size;
        while partials_in > elements.leaves.into() {
            self.merge_of(partials_in, Backward, Over::Stats)?;
            if let Some(last) = self.passes.last_mut() {
                last.weighs = std::mem::take(&mut weighs);
                partials_in = last.partials_out;
            }
        }
        self.push(Kernel::Apply, Backward, Over::Stats, elements, |p| {
            p.reduces = true;
            p.finishes = true;
            p.partials_in = partials_in;
            p.weighs = weighs;
        })?;
        if affine {
            // Nothing follows that needs the others.
            self.kept = 0;
            self.merge_planes(samples, sums_at, Backward, Over::Affine)?;
            self.finish();
        }
        Ok(())
    }

    /// One partial result for each segment of each affine parameter, in planes.
    fn sum_segments(&mut self) -> Result<(), Error> {
        use Direction::Backward;
        let geometry = self.geometry(Over::Affine)?;
        let (walk, leaves) = (self.problem.walk(Over::Affine), geometry.tree.leaves);
        let geometry = geometry.with_leaves(&walk, u64::from(geometry.leaves).min(leaves) as u32);
        self.push(Kernel::Reduce, Backward, Over::Affine, geometry, |p| {
            p.reduces = true;
            p.partials_out = geometry.tiles;
            p.planes_out = true;
        })?;
        let mut of_segment = leaves / u64::from(geometry.leaves);
        while of_segment > 1 {
            let partials_in = self.passes.last().map_or(1, |p| p.partials_out);
            let geometry = Geometry::of_planes(partials_in, of_segment, self.profile);
            self.push(Kernel::Merge, Backward, Over::Affine, geometry, |p| {
                p.reduces = true;
                p.planes_in = true;
                p.partials_in = partials_in;
                p.partials_out = geometry.tiles;
                p.planes_out = true;
            })?;
            of_segment /= u64::from(geometry.leaves);
        }
        Ok(())
    }

    /// dx, and on the way partial results of the gradients of weight and bias, one plane of them after the other, if there
    /// is a way: how many planes.
    fn project_and_sum(&mut self) -> Result<Option<u64>, Error> {
        let layout = &self.problem.layout;
        if layout.affine_of_stats == IndexMap::OF_TARGET {
            // Instance norm: a statistic's sums are those of its weight in one sample.
            let samples = layout.stats.outer;
            self.reduce_and_apply(Direction::Backward, Over::Stats, true, 1)?;
            return Ok(Some(samples));
        }
        let Some(geometry) = self.rows_and_columns()? else { return Ok(None) };
        let blocks = layout.stats.targets().div_ceil(geometry.targets.into());
        self.push(Kernel::Rows, Direction::Backward, Over::Stats, geometry, |p| p.reduces = true)?;
        Ok(Some(blocks))
    }

    /// Layer norm: rows on chip, of which an invocation takes as many one after the other as are a leaf of the walk over
    /// weights.
    fn rows_and_columns(&self) -> Result<Option<Geometry>, Error> {
        let (rows, columns) = (self.problem.walk(Over::Stats), self.problem.walk(Over::Affine));
        let crossed =
            [rows.inner, rows.segments, columns.outer, columns.segments] == [1; 4] && columns.len == rows.outer;
        let (geometry, tree) = (self.geometry(Over::Stats)?, Tree::new(&columns, self.profile));
        if !crossed || !tree.side_by_side || geometry.tiles > 1 {
            return Ok(None);
        }
        let geometry = geometry.with_rounds(tree.leaf_len() as u32);
        Ok(window::holds(&geometry, Over::Stats, self.problem, self.profile).then_some(geometry))
    }
}
