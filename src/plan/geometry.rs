//! The fixed tree of merges, and how much of it a workgroup takes.

use crate::error::Error;
use crate::layout::Walk;
use crate::profile::Profile;

/// Elements of one invocation's vector: the unit of loads.
pub const UNIT: u64 = 4;

/// Most units of a part of a leaf that is not held: few, as shaders are unrolled over them.
const PART: u32 = 8;

/// Leaves of one target: kernels count them in 32 bits.
const MOST_LEAVES: u64 = 1 << 31;

/// Partial results that an invocation merges by itself, where there are many.
const PARTIALS_OF_LEAF: u32 = 8;

/// Bytes of a partial result: moments, or sums of gradients.
pub const PARTIAL: u64 = 16;

/// Fewest elements of a target for each partial result, so that those are an eighth of an `f32` tensor's bytes at most; of
/// layer norm's columns there may be more.
pub const ELEMENTS_OF_PARTIAL: u64 = 32;

/// Elements that a strided leaf reaches over: a quarter of the smallest binding, so that bindings can hold one.
pub const MOST_SPAN: u64 = 1 << 23;

/// How a segment becomes leaves. Depends on the segment's length and stride and the kind of device alone (which elements
/// are a unit, on the input's type, too), so that every way to split the work, over passes, windows or devices, merges the
/// same leaves in the same order. Passes that only write elements have a tree of their own: nothing is summed along it. Layer
/// norm's backward pass has one of shorter leaves ([`Profile::max_units_beside_columns`]); down its columns a leaf is
/// [`Geometry::rounds`] rows.
///
/// Where a walk has [`Walk::singles`], elements are leaves, and what is called a leaf below is the tree of some of them.
///
/// Unit `u` of leaf `q`, counted through its parts, starts at element
/// `4 * ((q / lanes * parts * units + u) * lanes + q % lanes)` of its segment. Where a segment's length is not a multiple of
/// four, so that elements of `f32` are loaded one by one, it starts at
/// `4 * (q / lanes * parts * units + u) * lanes + q % lanes`, and its elements are `lanes` apart ([`Plan::spacing`]).
///
/// [`Plan::spacing`]: super::Plan::spacing
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tree {
    /// Units of four elements in a part of a leaf: what an invocation holds.
    pub units: u32,
    /// Parts of a leaf, merged one after the other, eight at a time.
    pub parts: u32,
    /// Neighbouring leaves whose units interleave.
    pub lanes: u32,
    /// Leaves of a segment, padded to a power of two.
    pub leaves: u64,
    /// Whether neighbouring targets are neighbours in memory, so that lanes go over targets.
    pub side_by_side: bool,
    /// Whether a leaf's elements are merged pair by pair.
    pub singles: bool,
}

impl Tree {
    /// The tree over the segments of a walk.
    pub fn new(walk: &Walk, profile: &Profile) -> Tree {
        let side_by_side = walk.inner_stride == 1 && walk.inner > 1 && (walk.stride != 1 || walk.len == 1);
        let units = walk.len.div_ceil(UNIT);
        let (held, in_parts) = match (walk.singles, side_by_side) {
            (true, _) => (profile.max_strided_units.min(2), 0),
            (false, true) => (profile.max_strided_units, profile.max_units_in_parts),
            (false, false) => (profile.max_units, profile.max_units_in_parts),
        };
        let most = u64::from(held.max(in_parts));
        let (lanes, most) = if side_by_side || walk.singles {
            (1, most.min(MOST_SPAN / (UNIT * walk.stride)).max(1))
        } else {
            let wide = units.next_power_of_two().min(profile.min_lanes.into());
            let needed = units.div_ceil(most).next_power_of_two();
            (needed.clamp(wide, profile.max_lanes.max(profile.min_lanes).into()), most)
        };
        let chunks = units.div_ceil(lanes * most);
        let of_leaf = units.div_ceil(lanes * chunks);
        let parts = if of_leaf <= held.into() { 1 } else { of_leaf.div_ceil(held.min(PART).into()) };
        Tree {
            units: of_leaf.div_ceil(parts) as u32,
            parts: parts as u32,
            lanes: lanes as u32,
            leaves: chunks.next_power_of_two() * lanes,
            side_by_side,
            singles: walk.singles,
        }
    }

    /// How many of a part's units have four elements, in every part, of a segment of `len` elements, that has any.
    /// `spacing`: distance of a unit's elements.
    pub fn whole_units(&self, len: u64, spacing: u32) -> u32 {
        if len == 0 {
            return 0;
        }
        let (lanes, spacing) = (u64::from(self.lanes), u64::from(spacing));
        let of_lane = if spacing == 1 { UNIT } else { 1 };
        // Of the last chunk that has any, the last lane that has any ends last.
        let of_parts = u64::from(self.units) * UNIT * lanes;
        let chunk = (len - 1) / of_parts * of_parts;
        let last = chunk + (len - 1 - chunk).min((lanes - 1) * of_lane) / of_lane * of_lane;
        let more = (UNIT - 1) * spacing;
        len.saturating_sub(last + more).div_ceil(UNIT * lanes).min(self.units.into()) as u32
    }

    /// Elements of a leaf.
    pub const fn leaf_len(&self) -> u64 {
        self.units as u64 * self.parts as u64 * UNIT
    }

    /// Positions that interleaved leaves take together.
    pub const fn chunk_len(&self) -> u64 {
        self.leaf_len() * self.lanes as u64
    }
}

/// A tree, and the tiles of it that workgroups take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Geometry {
    /// The tree; for passes over partial results a leaf is one of them.
    pub tree: Tree,
    /// Leaves of a tile: an aligned power of two.
    pub leaves: u32,
    /// Tiles of a target.
    pub tiles: u64,
    /// Targets that a workgroup takes.
    pub targets: u32,
    /// Neighbouring ones that an invocation takes abreast: one load has an element of each.
    pub abreast: u32,
    /// Neighbouring ones that an invocation takes one after the other, and sums what lies below each other in them:
    /// layer norm's rows, for the gradients of its weights.
    pub rounds: u32,
    /// Invocations of a workgroup.
    pub workgroup: u32,
}

impl Geometry {
    /// A target as one tile if that fits on chip; or tiles whose partial results are few enough to move and to bind.
    pub(crate) fn new(walk: &Walk, profile: &Profile) -> Result<Geometry, Error> {
        // What is reduced on chip stays in registers, of which there are too few for four targets.
        Ok(Geometry::of(walk, profile, false)?.with_few_partials(walk, profile))
    }

    /// The same for passes that only sum elements.
    pub(crate) fn of_sums(walk: &Walk, profile: &Profile) -> Result<Geometry, Error> {
        Ok(Geometry::of(walk, profile, true)?.with_few_partials(walk, profile))
    }

    fn with_few_partials(mut self, walk: &Walk, profile: &Profile) -> Geometry {
        while self.tiles > 1 && self.leaves < self.workgroup && self.has_many_partials(walk, profile) {
            self = self.with_leaves(walk, self.leaves * 2);
        }
        self
    }

    fn has_many_partials(&self, walk: &Walk, profile: &Profile) -> bool {
        let elements = u64::from(self.leaves) * self.tree.leaf_len().min(walk.len);
        // Those that they are merged to lie behind them, and those of groups of targets behind these.
        let partials = self.tiles + Geometry::of_partials(self.tiles, profile).tiles + 1;
        let bytes = walk.targets().saturating_mul(partials).saturating_mul(PARTIAL);
        elements < ELEMENTS_OF_PARTIAL || bytes > profile.max_binding_size
    }

    /// For passes that write elements, and sum none of them: any tree will do.
    pub(crate) fn of_elements(walk: &Walk, profile: &Profile) -> Result<Geometry, Error> {
        let (min_lanes, max_strided_units) = (profile.min_element_lanes, profile.max_strided_element_units);
        let profile = Profile { min_lanes, max_strided_units, max_units_in_parts: 0, ..*profile };
        let geometry = Geometry::of(walk, &profile, true)?;
        // Not all of a target, if that leaves a workgroup few neighbours.
        let most = Geometry::split(walk, &profile, geometry.tree, geometry.abreast);
        Ok(if geometry.leaves > most { geometry.with_leaves(walk, most) } else { geometry })
    }

    /// Leaves of a tile of targets that are not on chip.
    fn split(walk: &Walk, profile: &Profile, tree: Tree, abreast: u32) -> u32 {
        if tree.side_by_side {
            let lanes = (walk.targets() / u64::from(abreast)).next_power_of_two();
            profile.workgroup / u64::from(profile.target_lanes).min(lanes) as u32
        } else {
            profile.workgroup
        }
    }

    /// For passes that write elements of rows and sum what lies below each other in `rounds` of them: tiles of so many
    /// lanes.
    pub(super) fn of_columns(walk: &Walk, profile: &Profile, lanes: u32, rounds: u32) -> Result<Geometry, Error> {
        let (min_lanes, max_lanes) = (profile.min_element_lanes.min(lanes), lanes);
        let profile = Profile { min_lanes, max_lanes, max_units_in_parts: 0, ..*profile };
        Ok(Geometry::of(walk, &profile, false)?.with_leaves(walk, lanes).with_rounds(rounds))
    }

    fn of(walk: &Walk, profile: &Profile, abreast_on_chip: bool) -> Result<Geometry, Error> {
        let tree = Tree::new(walk, profile);
        let side_by_side = tree.side_by_side;
        let all = walk
            .segments
            .checked_next_power_of_two()
            .and_then(|s| s.checked_mul(tree.leaves))
            .filter(|&l| l <= MOST_LEAVES)
            .ok_or(Error::TooLarge {
                what: "leaves of one statistic",
                required: walk.segments.saturating_mul(tree.leaves),
                limit: MOST_LEAVES,
            })?;
        // Shaders count a segment's positions in 32 bits, those of its empty leaves, too.
        let (positions, limit) = (tree.leaves.saturating_mul(tree.leaf_len()), 1 << 32);
        if positions > limit {
            return Err(Error::TooLarge { what: "positions of a segment's leaves", required: positions, limit });
        }
        let workgroup = u64::from(profile.workgroup);
        // Channels that lie side by side in memory should stay so in a workgroup: as many as if each element were a leaf.
        let elements = if side_by_side { tree.leaf_len() } else { 1 };
        let fours = profile.abreast == 4 && side_by_side && walk.inner.is_multiple_of(4);
        let split = Geometry::split(walk, profile, tree, if fours { 4 } else { 1 }).into();
        let on_chip = all * elements <= workgroup || all <= split;
        let holds_elements = on_chip && tree.parts == 1 && !abreast_on_chip;
        let abreast = if fours && !holds_elements { 4 } else { 1 };
        let leaves = if on_chip { all } else { split };
        let empty =
            Geometry { tree, leaves: 0, tiles: 0, targets: 0, abreast, rounds: 1, workgroup: profile.workgroup };
        Ok(empty.with_leaves(walk, leaves as u32))
    }

    /// The same tree in tiles of another size.
    pub(super) fn with_leaves(self, walk: &Walk, leaves: u32) -> Geometry {
        let tiles = (walk.segments * self.tree.leaves).div_ceil(leaves.into());
        Geometry { leaves, tiles, targets: (self.workgroup / leaves).max(1) * self.abreast, ..self }
    }

    /// The same tiles, of targets of which an invocation takes `rounds`.
    pub(super) fn with_rounds(self, rounds: u32) -> Geometry {
        debug_assert_eq!(self.tree.parts, 1, "rows whose columns are summed are held");
        Geometry { targets: self.targets * rounds, rounds, ..self }
    }

    /// Workgroups that so many targets take, of one tile each.
    pub(crate) fn blocks(&self, targets: u64) -> u64 {
        targets.div_ceil(self.targets.into())
    }

    /// One target an invocation.
    pub(crate) fn of_targets(profile: &Profile) -> Geometry {
        Geometry { targets: profile.workgroup, ..Geometry::of_partials(1, profile) }
    }

    /// Tiles over partial results: a leaf is one of them, or several where there are more than a workgroup's invocations.
    pub(crate) fn of_partials(partials: u64, profile: &Profile) -> Geometry {
        let of_leaf = if partials > profile.workgroup.into() { PARTIALS_OF_LEAF } else { 1 };
        let leaves = partials.div_ceil(of_leaf.into()).next_power_of_two().min(profile.workgroup.into());
        Geometry {
            tree: Tree { units: of_leaf, parts: 1, lanes: 1, leaves: 1, side_by_side: false, singles: false },
            leaves: leaves as u32,
            tiles: partials.div_ceil(leaves * u64::from(of_leaf)),
            targets: profile.workgroup / leaves as u32,
            abreast: 1,
            rounds: 1,
            workgroup: profile.workgroup,
        }
    }

    /// Tiles over planes of partial results, one result of each target after the other.
    pub(crate) fn of_planes(planes: u64, profile: &Profile) -> Geometry {
        let geometry = Geometry::of_partials(planes, profile);
        Geometry { tree: Tree { side_by_side: true, ..geometry.tree }, ..geometry }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_units_are_whole_in_every_leaf_and_as_many_as_can_be() {
        let trees = [(1, 1, 1), (1, 1, 4), (2, 1, 1), (3, 1, 2), (5, 1, 4), (2, 3, 1), (3, 2, 4)];
        for (units, parts, lanes) in trees {
            let lens = 1..=6 * UNIT * u64::from(units * parts * lanes);
            for (len, spacing) in lens.flat_map(|len| [(len, 1), (len, lanes)]) {
                let leaves = 8 * u64::from(lanes);
                let tree = Tree { units, parts, lanes, leaves, side_by_side: false, singles: false };
                let whole_units = tree.whole_units(len, spacing);
                let [units, parts, lanes, spacing] = [units, parts, lanes, spacing].map(u64::from);
                let elements = |leaf: u64, unit: u64| {
                    let first = UNIT * (leaf / lanes * parts * units + unit) * lanes;
                    let lane = leaf % lanes * if spacing == 1 { UNIT } else { 1 };
                    (0..UNIT).map(move |i| first + lane + i * spacing)
                };
                let mut of_units = vec![0; len as usize];
                let all = (0..tree.leaves).flat_map(|leaf| (0..parts * units).map(move |unit| (leaf, unit)));
                for at in all.flat_map(|(leaf, unit)| elements(leaf, unit)).filter(|&at| at < len) {
                    of_units[at as usize] += 1;
                }
                assert!(of_units.iter().all(|&n| n == 1), "{tree:?} {len}");
                let starts = (0..tree.leaves).flat_map(|leaf| (0..parts).map(move |part| (leaf, part * units)));
                let starts = starts.filter(|&(leaf, first)| elements(leaf, first).any(|at| at < len));
                let whole = starts.map(|(leaf, first)| {
                    (first..first + units).filter(|&unit| elements(leaf, unit).all(|at| at < len)).count() as u32
                });
                assert_eq!(Some(whole_units), whole.min(), "{tree:?} {len}");
            }
        }
        let tree = Tree { units: 2, parts: 1, lanes: 1, leaves: 1, side_by_side: false, singles: false };
        assert_eq!(tree.whole_units(0, 1), 0);
    }
}
