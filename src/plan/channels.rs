//! Where group norm's passes go by channels: a group's segments are then its channels, so a weight is known with the leaf, and
//! sums of channels, which are sums of weights' gradients too, are on the way to those of the group.

use super::geometry::ELEMENTS_OF_PARTIAL;
use super::planner::Planner;
use super::{Geometry, Over, PARTIAL, UNIT, window};
use crate::error::Error;
use crate::layout::{IndexMap, Layout};
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
        let Some(channels) = self.by_channels()? else { return Ok(Over::Stats) };
        let pays = channels.tiles == 1 || self.groups()?.tiles > 1;
        Ok(if pays { Over::Channels } else { Over::Stats })
    }

    /// Where a group's channels are not too small and not too many, their sums serve both the statistics and the weights.
    /// Neither a device's limits nor what is asked for decide whether, for the same bits, which both ways give; the size of
    /// the batch does, above 2^22 channels in all. Groups that are held on chip, but not channel by channel, are left out.
    pub fn summed_channels(&self) -> Result<Option<Channels>, Error> {
        let affine = &self.problem.layout.affine;
        // Those that they are merged to need as much room at the most.
        let few = affine.targets().saturating_mul(affine.segments) <= Profile::GPU.max_binding_size / (2 * PARTIAL);
        if !(few && self.has_large_channels()) {
            return Ok(None);
        }
        let by_channels = self.by_channels()?;
        let elements = if by_channels.is_some() { Over::Channels } else { Over::Stats };
        if let Some(geometry) = by_channels.filter(|channels| channels.tiles == 1) {
            let holds = window::holds(&geometry, Over::Channels, self.problem, self.profile);
            return Ok(Some(if holds { Channels::OnChip(geometry) } else { Channels::Split { elements } }));
        }
        let groups = self.groups()?;
        Ok((groups.tiles > 1 || groups.tree.parts > 1).then_some(Channels::Split { elements }))
    }

    fn groups(&self) -> Result<Geometry, Error> {
        Geometry::new(&self.problem.walk(Over::Stats), self.profile)
    }

    /// Groups as channels, if these are runs of neighbours, which they are not in channels-last tensors, and are loaded by
    /// fours if groups are.
    fn by_channels(&self) -> Result<Option<Geometry>, Error> {
        if !self.has_large_channels() {
            return Ok(None);
        }
        let walk = self.problem.walk(Over::Channels);
        let loses_fours = !walk.len.is_multiple_of(UNIT) && (walk.len * walk.segments).is_multiple_of(UNIT);
        if walk.stride == 1 && !loses_fours { Geometry::new(&walk, self.profile).map(Some) } else { Ok(None) }
    }

    /// Whether statistics belong to several whole channels (group norm) of enough elements for a partial result.
    fn has_large_channels(&self) -> bool {
        let Layout { affine_of_stats, affine, .. } = self.problem.layout;
        affine_of_stats != IndexMap::OF_TARGET && !self.has_weights_of_columns() && affine.len >= ELEMENTS_OF_PARTIAL
    }
}
