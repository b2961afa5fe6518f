//! Backward passes: where gradients of weight and bias are sums over other elements than statistics are, they are summed on
//! the way where that is possible, so that no tensor is read for them.

use super::Over;
use super::channels::Channels;
use super::planner::Planner;
use crate::error::Error;
use crate::layout::IndexMap;
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
        match if projects { self.summed_channels()? } else { None } {
            Some(Channels::OnChip(geometry)) => return self.project_on_chip(geometry, wanted.affine),
            Some(Channels::Split { elements }) => return self.sum_and_apply(Backward, elements, wanted.affine),
            None => {}
        }
        if wanted.affine && self.problem.layout.has_weights_of_columns() {
            return self.sum_columns(projects);
        }
        // Instance norm: a statistic's sums are those of its weight in one sample.
        if projects && wanted.affine && self.problem.layout.affine_of_stats == IndexMap::OF_TARGET {
            let fits = self.attempt(|planner| {
                planner.reduce_and_apply(Backward, Over::Stats, true, 1)?;
                planner.merge_to_weights(planner.problem.layout.stats.outer, planner.partials_at())
            })?;
            if fits {
                return Ok(());
            }
        }
        // First, as dx may lie over what it reads.
        if wanted.affine {
            self.reduce_and_apply(Backward, Over::Affine, false, 0)?;
        }
        if projects {
            self.reduce_and_apply(Backward, Over::Stats, true, 0)?;
        } else if writes {
            self.element_wise(Backward)?;
        }
        Ok(())
    }

    /// Planes of partial results, from `at` on, to the gradients of weight and bias.
    pub(super) fn merge_to_weights(&mut self, planes: u64, at: u64) -> Result<(), Error> {
        self.merge_planes(planes, at, Direction::Backward, Over::Affine)?;
        self.finish();
        Ok(())
    }
}
