//! What a plan needs to know of the machine that runs it: one row a kind of device.

use crate::error::Error;
use crate::plan::{MOST_BYTES, PARTIAL};

/// Sizes that depend on the kind of device. All are powers of two where they count lanes.
///
/// Results have the same bits for one profile; two profiles may round differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Profile {
    /// Leaves that one workgroup reduces: its invocations.
    pub workgroup: u32,
    /// Longest leaf that an invocation holds, in units of four elements.
    pub max_units: u32,
    /// Longest leaf at all, in units; 0: as `max_units`. A leaf that an invocation does not hold is taken part by part, and
    /// read again where elements are written, which is for devices where that comes from a near cache. Leaves of single
    /// elements of a sample have no parts, nor do those where sums of columns are kept. Where this is not 0, halves that share
    /// words with other channels' are written by a pass of their own.
    pub max_units_in_parts: u32,
    /// As `max_units`, where sums of columns are kept beside a leaf (layer norm's backward pass): registers hold both.
    pub max_units_beside_columns: u32,
    /// As `max_units`, where neighbouring targets lie side by side (channels-last); four times as many rows of layer norm
    /// are summed one after the other for its weights, or more ([`Profile::busy_workgroups`]).
    pub max_strided_units: u32,
    /// As `max_strided_units`, where elements are written and nothing is summed; also by columns of samples (7x7 images).
    pub max_strided_element_units: u32,
    /// Leaves that a short segment is spread over before they grow, so that neighbouring lanes read neighbours.
    pub min_lanes: u32,
    /// As `min_lanes`, where elements are written and not summed up in the same pass.
    pub min_element_lanes: u32,
    /// Most leaves that read interleaved units of one segment.
    pub max_lanes: u32,
    /// Invocations of a workgroup side by side over the targets of channels-last tensors, or over columns of samples.
    pub target_lanes: u32,
    /// Neighbouring ones of these that one invocation takes: 1, or 4 where their number is a multiple of 4.
    pub abreast: u32,
    /// Whether partial results are merged to one before elements are written even where they are few, as a dispatch costs
    /// less than barriers in all workgroups that write.
    pub merges_first: bool,
    /// Workgroups that keep the device busy: where there are more, layer norm's take more rows each, so that sums of columns
    /// are few, and where there are fewer, shorter pieces of them.
    pub busy_workgroups: u32,
    /// `max_storage_buffer_binding_size`.
    pub max_binding_size: u64,
    /// `min_storage_buffer_offset_alignment`.
    pub offset_alignment: u64,
    /// `max_compute_workgroups_per_dimension`.
    pub max_workgroups: u32,
}

impl Profile {
    /// A GPU with WebGPU's default limits.
    pub const GPU: Profile = Profile {
        workgroup: 256,
        max_units: 8,
        max_units_in_parts: 0,
        max_units_beside_columns: 4,
        max_strided_units: 2,
        max_strided_element_units: 1,
        min_lanes: 8,
        min_element_lanes: 32,
        max_lanes: 256,
        target_lanes: 32,
        abreast: 4,
        merges_first: false,
        busy_workgroups: 512,
        max_binding_size: 128 << 20,
        offset_alignment: 256,
        max_workgroups: 65535,
    };

    /// A software driver: few, busy invocations, because each barrier costs.
    pub const SOFTWARE_GPU: Profile = Profile {
        workgroup: 32,
        max_units: 16,
        max_units_in_parts: 1024,
        max_units_beside_columns: 16,
        max_strided_units: 16,
        max_strided_element_units: 4,
        min_lanes: 1,
        min_element_lanes: 1,
        max_lanes: 32,
        merges_first: true,
        busy_workgroups: 8,
        ..Profile::GPU
    };

    /// The CPU path, of which it takes the trees: leaves of up to 4096 contiguous or 16 strided elements.
    pub const CPU: Profile = Profile {
        workgroup: 1 << 6,
        max_units: 1024,
        max_units_in_parts: 0,
        max_units_beside_columns: 1024,
        max_strided_units: 4,
        max_strided_element_units: 4,
        min_lanes: 1,
        min_element_lanes: 1,
        max_lanes: 1,
        target_lanes: 16,
        abreast: 1,
        merges_first: false,
        busy_workgroups: 1,
        max_binding_size: u64::MAX,
        offset_alignment: 1,
        max_workgroups: u32::MAX,
    };

    /// The row for an adapter, with the limits that the device was opened with.
    ///
    /// DX12's software adapter (WARP) has the row of a GPU: FXC, which compiles for it unless there is DXC, takes up to two
    /// minutes for one kernel of the other.
    pub fn new(adapter: &wgpu::AdapterInfo, limits: &wgpu::Limits) -> Profile {
        let is_software = adapter.device_type == wgpu::DeviceType::Cpu && adapter.backend != wgpu::Backend::Dx12;
        let row = if is_software { Profile::SOFTWARE_GPU } else { Profile::GPU };
        let invocations = limits.max_compute_invocations_per_workgroup.min(limits.max_compute_workgroup_size_x);
        let workgroup = row.workgroup.min(1 << invocations.max(1).ilog2());
        let profile = Profile {
            workgroup,
            min_lanes: row.min_lanes.min(workgroup),
            min_element_lanes: row.min_element_lanes.min(workgroup),
            max_lanes: row.max_lanes.min(workgroup),
            target_lanes: row.target_lanes.min(workgroup),
            max_binding_size: limits.max_storage_buffer_binding_size.min(MOST_BYTES),
            offset_alignment: limits.min_storage_buffer_offset_alignment.into(),
            max_workgroups: limits.max_compute_workgroups_per_dimension,
            ..row
        };
        let fits = profile.workgroup_memory() <= limits.max_compute_workgroup_storage_size.into();
        Profile { abreast: if fits { row.abreast } else { 1 }, ..profile }
    }

    /// Bytes of memory that a workgroup shares: a partial result for each leaf of each target that it reduces, or sums of
    /// four columns for each.
    pub(crate) const fn workgroup_memory(&self) -> u64 {
        let results = if self.abreast > 2 { self.abreast } else { 2 };
        self.workgroup as u64 * results as u64 * PARTIAL
    }

    /// Checks what plans count on. [`Error::Parameter`]
    pub(crate) fn check(&self) -> Result<(), Error> {
        let error = |name, value: u64, expected| Err(Error::Parameter { name, value: value as f64, expected });
        let powers = [
            ("Profile::workgroup", self.workgroup),
            ("Profile::min_lanes", self.min_lanes),
            ("Profile::min_element_lanes", self.min_element_lanes),
            ("Profile::max_lanes", self.max_lanes),
            ("Profile::target_lanes", self.target_lanes),
        ];
        let most = self.workgroup;
        let power = |v: u32| v.is_power_of_two() && v <= most;
        // One partial result a workgroup would never become fewer.
        if self.workgroup == 1 {
            return error("Profile::workgroup", 1, "2 or more");
        }
        let positive = [
            ("Profile::max_units", u64::from(self.max_units)),
            ("Profile::max_units_beside_columns", self.max_units_beside_columns.into()),
            ("Profile::max_strided_units", self.max_strided_units.into()),
            ("Profile::max_strided_element_units", self.max_strided_element_units.into()),
            ("Profile::offset_alignment", self.offset_alignment),
            ("Profile::max_workgroups", self.max_workgroups.into()),
        ];
        if let Some(&(name, value)) = powers.iter().find(|(_, v)| !power(*v)) {
            return error(name, value.into(), "a power of two, and at most Profile::workgroup");
        }
        if let Some(&(name, value)) = positive.iter().find(|(_, v)| *v == 0) {
            return error(name, value, "1 or more");
        }
        if !matches!(self.abreast, 1 | 4) {
            return error("Profile::abreast", self.abreast.into(), "1 or 4");
        }
        Ok(())
    }
}
