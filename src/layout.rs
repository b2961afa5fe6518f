//! Where the elements of each statistic lie. Every norm is one [`Layout`]; kernels know nothing of norms' names.

use crate::error::Error;
use crate::tensor::{Format, Pitch};

/// A walk over a tensor: for each of `outer x inner` targets, `segments` runs of `len` elements.
///
/// Element (target t, segment i, position j) lies at
/// `(t / inner) * outer_stride + (t % inner) * inner_stride + i * segment_stride + j * stride` (in elements).
/// Segments are what a batch is sharded by: trees of merges are built within a segment first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Walk {
    /// Groups of targets; for batch norm 1, for the other norms the samples or rows.
    pub outer: u64,
    /// Distance of two groups of targets, in elements.
    pub outer_stride: u64,
    /// Targets in a group.
    pub inner: u64,
    /// Distance of two targets of a group, in elements.
    pub inner_stride: u64,
    /// Runs of elements that belong to one target.
    pub segments: u64,
    /// Distance of two runs, in elements.
    pub segment_stride: u64,
    /// Elements of a run.
    pub len: u64,
    /// Distance of two elements of a run: 1, or the number of channels in channels-last tensors.
    pub stride: u64,
    /// Whether a batch is sharded between any two elements of a run, and trees have leaves of one element.
    pub singles: bool,
}

impl Walk {
    /// Number of targets: statistics, or affine parameters.
    pub const fn targets(&self) -> u64 {
        self.outer * self.inner
    }

    /// Elements that belong to one target.
    pub const fn count(&self) -> u64 {
        self.segments * self.len
    }

    /// Position of an element in memory, in elements from the tensor's start.
    pub const fn offset(&self, target: u64, segment: u64, position: u64) -> u64 {
        (target / self.inner) * self.outer_stride
            + (target % self.inner) * self.inner_stride
            + segment * self.segment_stride
            + position * self.stride
    }

    /// The same elements as one run, where each segment is a single one.
    pub(crate) const fn joined(self) -> Walk {
        if self.len == 1 && self.segments > 0 {
            Walk { segments: 1, len: self.segments, stride: self.segment_stride, singles: true, ..self }
        } else {
            self
        }
    }
}

/// A linear map from a walk's coordinates (target t, segment i, position j) to an index:
/// `(t % inner) / target_div * target + i * segment + j / position_div * position`.
///
/// It tells which weight an element uses, or which statistic, whichever the walk does not go over itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IndexMap {
    /// Neighbouring targets that share an index.
    pub target_div: u64,
    /// Step of the index from one target to the next.
    pub target: u64,
    /// Step of the index from one segment to the next.
    pub segment: u64,
    /// Neighbouring positions that share an index.
    pub position_div: u64,
    /// Step of the index from one position to the next; 0: the same for a whole segment.
    pub position: u64,
}

impl IndexMap {
    /// Index for target t (counted within its group), segment i, position j.
    pub const fn index(&self, inner_target: u64, segment: u64, position: u64) -> u64 {
        inner_target / self.target_div * self.target
            + segment * self.segment
            + position / self.position_div * self.position
    }

    /// Of a group's `size` channels, which are its segments.
    pub(crate) const fn of_channels(size: u64) -> IndexMap {
        IndexMap { target: size, segment: 1, ..IndexMap::OF_TARGET }
    }

    /// Of samples' elements, of which so many neighbours belong to a channel.
    pub(crate) const fn of_positions(len: u64) -> IndexMap {
        IndexMap { target: 0, position_div: len, position: 1, ..IndexMap::OF_TARGET }
    }

    /// The target's own number within its group.
    pub const OF_TARGET: IndexMap = IndexMap { target_div: 1, target: 1, segment: 0, position_div: 1, position: 0 };
}

/// How a tensor lies in memory: `samples` of `rows` rows of `width` neighbouring elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Memory {
    /// Samples.
    pub samples: u64,
    /// Rows of a sample.
    pub rows: u64,
    /// Elements of a row.
    pub width: u64,
    /// Distance of two rows of a sample, in elements.
    pub row_pitch: u64,
    /// Distance of two samples, in elements.
    pub sample_pitch: u64,
}

impl Memory {
    /// Without gaps. The product must have been checked.
    pub(crate) const fn dense(samples: u64, rows: u64, width: u64) -> Memory {
        Memory { samples, rows, width, row_pitch: width, sample_pitch: rows * width }
    }

    /// The same tensor with gaps; a row's pitch is a sample's where a sample is one row. [`Error::Pitch`] if rows or
    /// samples would overlap, [`Error::TooLarge`].
    pub(crate) fn with_pitch(self, name: &'static str, pitch: Pitch) -> Result<Memory, Error> {
        let check = |what, actual, least| {
            if actual < least { Err(Error::Pitch { name, what, least, actual }) } else { Ok(actual) }
        };
        let one_row = self.rows == 1;
        let row_pitch = check("row", pitch.row.unwrap_or(self.width), self.width)?;
        let most = u64::MAX / 8;
        let too_large =
            Error::TooLarge { what: "elements from a tensor's first to its last", required: u64::MAX, limit: most };
        let rows =
            (self.rows - 1).checked_mul(row_pitch).and_then(|n| n.checked_add(self.width)).ok_or(too_large.clone())?;
        let sample = pitch.sample.or(pitch.row.filter(|_| one_row));
        let next = if pitch.row.is_some() { self.rows.saturating_mul(row_pitch) } else { rows };
        let sample_pitch = check("sample", sample.unwrap_or(next), rows)?;
        let all = self.samples.saturating_sub(1).checked_mul(sample_pitch).and_then(|n| n.checked_add(rows));
        all.filter(|&n| n <= most).ok_or(too_large)?;
        // That of a single sample is nobody's, but what is beyond may be asked for: not so far that it cannot be counted.
        let sample_pitch = if self.samples > 1 { sample_pitch } else { sample_pitch.min(2 * rows) };
        Ok(Memory { row_pitch: if one_row { self.width } else { row_pitch }, sample_pitch, ..self })
    }

    /// Whether the first row of a sample is further from the last of the one before than rows of a sample are from each other,
    /// or nearer.
    pub(crate) const fn has_blocks_of_rows(&self) -> bool {
        self.samples > 1 && self.rows > 1 && self.sample_pitch != self.rows * self.row_pitch
    }

    /// Whether the elements of the same tensor lie as they do here.
    pub(crate) const fn has_places_of(&self, other: &Memory) -> bool {
        (self.rows <= 1 || self.row_pitch == other.row_pitch)
            && (self.samples <= 1 || self.sample_pitch == other.sample_pitch)
    }

    /// Elements from the first to the last.
    pub const fn span(&self) -> u64 {
        if self.samples == 0 {
            return 0;
        }
        (self.samples - 1) * self.sample_pitch + (self.rows - 1) * self.row_pitch + self.width
    }

    /// What a stride between `count` neighbours along one axis of the tensor without gaps becomes.
    const fn stride(&self, stride: u64, count: u64) -> u64 {
        if count <= 1 {
            stride
        } else if self.samples > 1 && stride.is_multiple_of(self.rows * self.width) {
            stride / (self.rows * self.width) * self.sample_pitch
        } else if self.rows > 1 && stride.is_multiple_of(self.width) {
            stride / self.width * self.row_pitch
        } else {
            stride
        }
    }

    /// A walk over the tensor without gaps, over this one.
    pub const fn walk(&self, dense: &Walk) -> Walk {
        Walk {
            outer_stride: self.stride(dense.outer_stride, dense.outer),
            inner_stride: self.stride(dense.inner_stride, dense.inner),
            segment_stride: self.stride(dense.segment_stride, dense.segments),
            stride: self.stride(dense.stride, dense.len),
            ..*dense
        }
    }
}

/// Elements of rows that are taken as one: eight times what a subgroup loads at once, so that few of its lanes idle.
const WIDE: u64 = 1024;

/// How a norm lies over its tensor: which elements share a statistic and which share a weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Layout {
    /// Targets are the statistics.
    pub stats: Walk,
    /// Which weight and bias an element of `stats` uses.
    pub affine_of_stats: IndexMap,
    /// Targets are the affine parameters: the walk of dweight and dbias.
    pub affine: Walk,
    /// Which statistic an element of `affine` was normalised with.
    pub stat_of_affine: IndexMap,
    /// How the tensor lies in memory if it has no gaps.
    pub memory: Memory,
    /// Elements of the tensor.
    pub elements: u64,
}

impl Layout {
    /// Whether a statistic's elements are exactly one weight's elements (batch norm): one reduction serves both.
    pub fn is_per_channel(&self) -> bool {
        self.stats == self.affine
    }

    /// Whether each sample is a row, and their distance is one: not of one position that is channels-last, whose row has no
    /// neighbour in its sample. (Rows of layer norm are no segments. Of one channel the formats do not differ.)
    pub(crate) fn rows_are_samples(&self) -> bool {
        let Walk { inner, len, stride, segment_stride, .. } = self.affine;
        let is_position = len == 1 && segment_stride != 0 && (stride != 1 || inner == 1);
        self.memory.rows == 1 && !is_position
    }

    /// Whether statistics belong to rows and weights to columns (layer and RMS norm).
    pub(crate) fn has_weights_of_columns(&self) -> bool {
        self.stat_of_affine.position != 0
    }

    /// The walk over such rows, sample by sample.
    pub(crate) fn rows_of_samples(&self) -> Walk {
        let Memory { samples, rows, width, .. } = self.memory;
        Walk { outer: samples, outer_stride: rows * width, inner: rows, inner_stride: width, ..self.stats }
    }

    /// The walk over statistics whose segments are the channels of a group; its weights go by the segment.
    pub(crate) fn channels_of_stats(&self) -> Walk {
        let Walk { inner_stride, len, stride, .. } = self.affine;
        Walk { segments: self.stat_of_affine.target_div, segment_stride: inner_stride, len, stride, ..self.stats }
    }

    /// The walk over each sample's channels, as instance norm's over its statistics.
    pub(crate) fn instances(&self) -> Walk {
        let Walk { segments, segment_stride, .. } = self.affine;
        Walk { outer: segments, outer_stride: segment_stride, segments: 1, segment_stride: 0, ..self.affine }
    }

    /// The walk over samples, of which each is one run of channels.
    pub(crate) fn samples(&self) -> Walk {
        let Walk { segments, segment_stride, inner, len, .. } = self.affine;
        let samples = Walk { outer: segments, outer_stride: segment_stride, inner: 1, inner_stride: 0, ..self.affine };
        Walk { segments: 1, segment_stride: 0, len: inner * len, stride: 1, singles: false, ..samples }
    }

    /// Neighbours in memory that belong to one channel.
    pub(crate) fn columns_of_channel(&self) -> u64 {
        if self.affine.stride == 1 { self.affine.len } else { 1 }
    }

    /// Elements of a row of all channels: a position of channels-last tensors, or a sample.
    pub(crate) fn row_width(&self) -> u64 {
        self.affine.inner * self.columns_of_channel()
    }

    /// The walk over columns of such rows, of which 2^k are joined to one: as many as have up to `WIDE` elements and leave four
    /// joined rows, but enough for a multiple of four elements. 2^k divides the number of rows.
    pub(crate) fn columns_of_rows(&self) -> Walk {
        let width = self.row_width();
        let rows = self.affine.count() / self.columns_of_channel();
        let least = 4 >> width.trailing_zeros().min(2);
        let wanted = (WIDE / width).min(rows / 4).max(least).ilog2();
        let together = 1 << wanted.min(rows.trailing_zeros());
        let columns = together * width;
        let walk = Walk { inner: columns, inner_stride: 1, segments: 1, segment_stride: 0, ..self.affine };
        Walk { len: rows / together, stride: columns, singles: false, ..walk }
    }

    /// The layout of no samples: targets without elements.
    pub(crate) fn empty(self) -> Layout {
        let none = |walk| Walk { segments: 0, ..walk };
        let memory = Memory { samples: 0, ..self.memory };
        Layout { stats: none(self.stats), affine: none(self.affine), memory, elements: 0, ..self }
    }

    /// The layout of statistics that are given per channel.
    pub(crate) fn per_channel(self) -> Layout {
        let map = IndexMap::OF_TARGET;
        Layout { stats: self.affine, affine_of_stats: map, stat_of_affine: map, ..self }
    }
}

/// Sizes of an (N, C, spatial) tensor, checked against overflow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Nchw {
    pub n: u64,
    pub c: u64,
    pub s: u64,
    pub format: Format,
}

impl Nchw {
    /// Strides of (sample, channel, position).
    fn strides(&self) -> (u64, u64, u64) {
        match self.format {
            Format::ChannelsFirst => (self.c * self.s, self.s, 1),
            Format::ChannelsLast => (self.c * self.s, 1, self.c),
        }
    }

    fn memory(&self) -> Memory {
        match self.format {
            Format::ChannelsFirst => Memory::dense(self.n, 1, self.c * self.s),
            Format::ChannelsLast => Memory::dense(self.n, self.s, self.c),
        }
    }

    fn channel_walk(&self) -> Walk {
        let (sample, channel, position) = self.strides();
        Walk {
            outer: 1,
            outer_stride: 0,
            inner: self.c,
            inner_stride: channel,
            segments: self.n,
            segment_stride: sample,
            len: self.s,
            stride: position,
            singles: false,
        }
    }

    /// One statistic a channel.
    pub fn batch(&self) -> Layout {
        let walk = self.channel_walk();
        Layout {
            stats: walk,
            affine_of_stats: IndexMap::OF_TARGET,
            affine: walk,
            stat_of_affine: IndexMap::OF_TARGET,
            memory: self.memory(),
            elements: self.n * self.c * self.s,
        }
    }

    /// One statistic a sample and group of `size` neighbouring channels.
    pub fn group(&self, size: u64) -> Layout {
        let (sample, channel, position) = self.strides();
        let groups = self.c / size;
        let stats = Walk {
            outer: self.n,
            outer_stride: sample,
            inner: groups,
            inner_stride: size * channel,
            segments: 1,
            segment_stride: 0,
            len: 0,
            stride: 1,
            singles: false,
        };
        let affine = IndexMap { target_div: 1, target: size, segment: 0, position_div: 1, position: 1 };
        let (stats, affine_of_stats) = match self.format {
            _ if size == 1 => (Walk { len: self.s, stride: position, ..stats }, IndexMap::OF_TARGET),
            Format::ChannelsFirst => {
                (Walk { len: size * self.s, ..stats }, IndexMap { position_div: self.s, ..affine })
            }
            Format::ChannelsLast => (Walk { segments: self.s, segment_stride: self.c, len: size, ..stats }, affine),
        };
        let stat_of_affine = IndexMap { target_div: size, target: 1, segment: groups, position_div: 1, position: 0 };
        Layout {
            stats,
            affine_of_stats,
            affine: self.channel_walk(),
            stat_of_affine,
            memory: self.memory(),
            elements: self.n * self.c * self.s,
        }
    }
}

/// One statistic a row of `d` contiguous elements, of `rows` in each of the samples, and one weight a column.
pub(crate) fn rows(samples: u64, rows: u64, d: u64) -> Layout {
    let m = samples * rows;
    let stats = Walk {
        outer: m,
        outer_stride: d,
        inner: 1,
        inner_stride: 0,
        segments: 1,
        segment_stride: 0,
        len: d,
        stride: 1,
        singles: false,
    };
    let affine = Walk {
        outer: 1,
        outer_stride: 0,
        inner: d,
        inner_stride: 1,
        segments: 1,
        segment_stride: 0,
        len: m,
        stride: d,
        singles: false,
    };
    let by_position = IndexMap { target_div: 1, target: 0, segment: 0, position_div: 1, position: 1 };
    let memory = Memory::dense(samples, rows, d);
    Layout { stats, affine_of_stats: by_position, affine, stat_of_affine: by_position, memory, elements: m * d }
}
