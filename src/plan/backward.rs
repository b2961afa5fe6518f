//! Backward passes: where gradients of weight and bias are sums over other elements than statistics are, they are summed on
//! the way where that is possible, so that no tensor is read for them.

use super::channels::Channels;
use super::planner::Planner;
use super::{Geometry, Kernel, Over, Tree, scratch, window};
use crate::error::Error;
use crate::layout::IndexMap;
use crate::op::{Direction, Gradients, Statistics};
use crate::profile::Profile;

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
        match if projects { self.summed_channels()? } else { None } {
            Some(Channels::OnChip(geometry)) => return self.project_on_chip(geometry, wanted.affine),
            Some(Channels::Split { elements }) => return self.sum_and_apply(Backward, elements, wanted.affine),
            None => {}
        }
        if projects && wanted.affine && self.project_and_sum()? {
            if scratch(self.problem, &self.passes) <= self.profile.max_binding_size {
                return Ok(());
            }
            self.passes.clear();
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

    /// Planes of partial results, from `at` on, to the gradients of weight and bias.
    pub(super) fn merge_to_weights(&mut self, planes: u64, at: u64) -> Result<(), Error> {
        self.merge_planes(planes, at, Direction::Backward, Over::Affine)?;
        self.finish();
        Ok(())
    }

    /// dx, and on the way partial results of the gradients of weight and bias, in planes that are merged; false where there
    /// is no such way.
    fn project_and_sum(&mut self) -> Result<bool, Error> {
        let layout = &self.problem.layout;
        let planes = if layout.affine_of_stats == IndexMap::OF_TARGET {
            // Instance norm: a statistic's sums are those of its weight in one sample.
            self.reduce_and_apply(Direction::Backward, Over::Stats, true, 1)?;
            layout.stats.outer
        } else {
            let Some(geometry) = self.rows_and_columns()? else { return Ok(false) };
            self.push(Kernel::Rows, Direction::Backward, Over::Stats, geometry, |p| p.reduces = true)?;
            geometry.blocks(layout.stats.targets())
        };
        self.merge_to_weights(planes, self.partials_at())?;
        Ok(true)
    }

    /// Whether statistics belong to rows and weights to columns (layer and RMS norm).
    pub(super) fn has_weights_of_columns(&self) -> bool {
        self.problem.layout.stat_of_affine.position != 0
    }

    /// What trees over a walk are made by. Layer norm's weights have no leaves in parts: where rows are on chip an invocation
    /// takes a leaf's rows one after the other.
    pub(super) fn profile_of_sums(&self, over: Over) -> Profile {
        let columns = over == Over::Affine && self.has_weights_of_columns();
        let max_units_in_parts = if columns { 0 } else { self.profile.max_units_in_parts };
        Profile { max_units_in_parts, ..*self.profile }
    }

    /// Layer norm's rows, if they fit a chip with the sums of their columns, whether those are wanted or not: for the same
    /// bits.
    pub(super) fn beside_columns(&self, over: Over) -> Result<Option<Geometry>, Error> {
        if !self.has_weights_of_columns() || over != Over::Stats || self.problem.op.direction() != Direction::Backward {
            return Ok(None);
        }
        let max_units = self.profile.max_units.min(self.profile.max_units_beside_columns);
        let profile = Profile { max_units, max_units_in_parts: 0, ..*self.profile };
        Ok(Some(Geometry::new(&self.problem.layout.stats, &profile)?).filter(|geometry| geometry.tiles == 1))
    }

    /// The same, of which an invocation takes as many one after the other as are a leaf of the walk over weights.
    fn rows_and_columns(&self) -> Result<Option<Geometry>, Error> {
        let Some(geometry) = self.beside_columns(Over::Stats)? else { return Ok(None) };
        let tree = Tree::new(&self.problem.layout.affine, &self.profile_of_sums(Over::Affine));
        let geometry = geometry.with_rounds(tree.leaf_len() as u32);
        let holds = window::holds(&geometry, Over::Stats, self.problem, self.profile);
        Ok(Some(geometry).filter(|_| tree.side_by_side && holds))
    }
}
