//! Where group norm's passes go by channels: a weight is then known with the leaf, and sums of channels, which are sums of
//! weights' gradients too, are on the way to those of the group, whose segments they are where they are runs of neighbours.

use super::geometry::ELEMENTS_OF_PARTIAL;
use super::planner::Planner;
use super::{Geometry, Kernel, Over, PARTIAL, UNIT, window};
use crate::error::Error;
use crate::layout::{IndexMap, Layout};
use crate::op::Direction;
use crate::profile::Profile;

/// How channels are summed on the way to dx.
pub(super) enum Channels {
    /// In the tree of their group, which is on chip.
    OnChip(Geometry),
    /// By themselves; what writes dx goes over `elements`.
    Split { elements: Over },
}

impl Planner<'_> {
    /// What forward passes over a norm's own statistics go over: channels, but where a group is on chip without them and not
    /// with them.
    pub fn forward_over(&self) -> Result<Over, Error> {
        let (over, channels) = self.by_channels()?;
        let fits = channels.is_some_and(|geometry| geometry.tiles == 1);
        Ok(if fits || (over != Over::Stats && self.groups()?.tiles > 1) { over } else { Over::Stats })
    }

    /// Where a group's channels are not too small and not too many, their sums serve both the statistics and the weights.
    /// The choice depends neither on a device's limits nor on what is asked for, so the bits do not either. Groups that are
    /// held on chip, but not channel by channel, are left out.
    pub fn summed_channels(&self) -> Result<Option<Channels>, Error> {
        if !self.has_few_large_channels() {
            return Ok(None);
        }
        let (elements, channels) = self.by_channels()?;
        if let Some(geometry) = channels.filter(|channels| channels.tiles == 1) {
            let holds = window::holds(&geometry, Over::Channels, self.problem, self.profile);
            return Ok(Some(if holds { Channels::OnChip(geometry) } else { Channels::Split { elements } }));
        }
        let groups = self.groups()?;
        Ok((groups.tiles > 1 || groups.tree.parts > 1).then_some(Channels::Split { elements }))
    }

    fn groups(&self) -> Result<Geometry, Error> {
        Geometry::new(&self.problem.walk(Over::Stats), self.profile)
    }

    /// What a group's elements are taken by: channels that are its segments, if these are runs of neighbours, and are
    /// loaded by fours if groups are; channels that lie side by side, if there is room for their sums; or the group itself.
    fn by_channels(&self) -> Result<(Over, Option<Geometry>), Error> {
        if !self.has_large_channels() {
            return Ok((Over::Stats, None));
        }
        let walk = self.problem.walk(Over::Channels);
        let loses_fours = !walk.len.is_multiple_of(UNIT) && (walk.len * walk.segments).is_multiple_of(UNIT);
        Ok(match walk.stride {
            1 if loses_fours => (Over::Stats, None),
            1 => (Over::Channels, Some(Geometry::new(&walk, self.profile)?)),
            _ if self.has_few_large_channels() => (Over::Instances, None),
            _ => (Over::Stats, None),
        })
    }

    /// Whether there is room for the sums of each sample's channels, too: 2^22 at the most, so that above these a sample's
    /// bits may depend on the size of its batch.
    fn has_few_large_channels(&self) -> bool {
        let affine = &self.problem.layout.affine;
        // Those that they are merged to need as much room at the most.
        let few = affine.targets().saturating_mul(affine.segments) <= Profile::GPU.max_binding_size / (2 * PARTIAL);
        few && self.has_large_channels()
    }

    /// Whether statistics belong to several whole channels (group norm) of enough elements for a partial result.
    fn has_large_channels(&self) -> bool {
        let Layout { affine_of_stats, affine, .. } = self.problem.layout;
        affine_of_stats != IndexMap::OF_TARGET
            && !self.problem.layout.has_weights_of_columns()
            && affine.len >= ELEMENTS_OF_PARTIAL
    }

    /// On chip: sums of channels are partial results for the weights, and those of a group, weighed, give dx.
    pub fn project_on_chip(&mut self, geometry: Geometry, affine: bool) -> Result<(), Error> {
        let (samples, size) = (self.problem.layout.affine.segments, self.problem.layout.stat_of_affine.target_div);
        self.push(Kernel::Rows, Direction::Backward, Over::Channels, geometry, |p| {
            p.reduces = true;
            p.weighs = true;
            p.partials_out = if affine { size } else { 0 };
        })?;
        if affine { self.merge_to_weights(samples, self.partials_at()) } else { Ok(()) }
    }

    /// Split: sums of each sample's channels, of which those of a group give its statistics, or, weighed, dx, and those of
    /// all samples the gradients of weight and bias. `over`: what elements are written by.
    pub fn sum_and_apply(&mut self, direction: Direction, over: Over, affine: bool) -> Result<(), Error> {
        let layout = &self.problem.layout;
        let (samples, channels, size) = (layout.affine.segments, layout.affine.inner, layout.stat_of_affine.target_div);
        let mut weighs = direction == Direction::Backward;
        // A channel's own sum is weighed.
        self.reduce(direction, Over::Instances, if weighs { 1 } else { u64::MAX })?;
        debug_assert!(self.partials_out().is_power_of_two(), "a tree over all of a group is one over its channels");
        let sums_at = self.partials_at();
        self.kept = sums_at + samples * channels * self.partials_out();
        let elements = self.element_geometry(over)?;
        let mut partials_in = size * self.partials_out();
        let is_merged_before = over == Over::Instances || partials_in > self.most_applied(&elements);
        while is_merged_before && partials_in > 1 {
            self.merge_of(partials_in, direction, Over::Stats)?;
            if let Some(last) = self.passes.last_mut() {
                last.weighs = std::mem::take(&mut weighs);
                partials_in = last.partials_out;
            }
        }
        self.apply(direction, over, elements, |p| {
            p.partials_in = partials_in;
            p.weighs = weighs;
        })?;
        if affine {
            // Nothing follows that needs the others.
            self.kept = 0;
            self.merge_to_weights(samples, sums_at)?;
        }
        Ok(())
    }
}
