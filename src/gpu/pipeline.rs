//! Compute pipelines, made when first needed and kept.

use super::params::index_map;
use super::shader::{Access, Addressing, Variant, compose};
use crate::error::Error;
use crate::layout::IndexMap;
use crate::op::{Direction, Op, Residual, Statistics};
use crate::plan::{Kernel, Over, Pass, Plan, Tensor, UNIT};
use crate::profile::Profile;
use crate::tensor::DType;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Storage buffers that one stage binds at most: five tensors, state, saved statistics, partial results.
const STORAGE_BUFFERS: u32 = 8;

/// Values of the shaders' `override` declarations.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Constants {
    workgroup: u32,
    slots: u32,
    leaves: u32,
    leaf_stride: u32,
    lanes: u32,
    whole: u32,
    spacing: u32,
    parts: u32,
    across: bool,
    folded: bool,
    backwards: bool,
    rounds: u32,
    centred: bool,
    has_weight: bool,
    has_bias: bool,
    relu: bool,
    running: bool,
    over_affine: bool,
    map: u32,
    reduces: bool,
    merges: bool,
    finishes: bool,
    partials: bool,
    weighs: bool,
    update: u32,
    project: bool,
    weights_vary: bool,
    grouped: bool,
    map_shared: bool,
    map_by_segment: bool,
    stats_shared: bool,
    in_a_row: bool,
}

impl Constants {
    fn new(plan: &Plan, pass: &Pass, update: u32) -> Constants {
        let (problem, geometry) = (&plan.problem, pass.geometry);
        let map = index_map(plan, pass.over);
        let per_channel = problem.layout.is_per_channel();
        let over_affine = pass.over == Over::Affine;
        // Gradients of weight and bias are sums over their own elements.
        let results_are_gradients = per_channel || over_affine;
        let wants_gradients = match problem.op {
            Op::Backward(wanted) => wanted.affine,
            op => matches!(op, Op::LocalSums(_)),
        };
        let merges = pass.kernel != Kernel::Apply || pass.partials_in > 1;
        let spacing = plan.spacing(pass);
        let walk = plan.walk(pass.over);
        Constants {
            workgroup: geometry.workgroup,
            // Memory of a workgroup that nothing is kept in would only keep others from running.
            slots: match (pass.reduces && merges, pass.sums_columns()) {
                (false, _) => 1,
                (true, false) => geometry.workgroup * geometry.abreast,
                // Two sums of each of a unit's four columns.
                (true, true) => geometry.workgroup * 2,
            },
            leaves: geometry.leaves,
            leaf_stride: if geometry.tree.side_by_side { geometry.targets / geometry.abreast } else { 1 },
            lanes: geometry.tree.lanes,
            whole: geometry.tree.whole_units(walk.len, spacing),
            spacing,
            parts: geometry.tree.parts,
            across: geometry.tree.side_by_side,
            folded: pass.dispatches.iter().any(|d| d.folded),
            backwards: pass.backwards,
            rounds: geometry.rounds,
            centred: problem.centred,
            has_weight: problem.affine.weight,
            has_bias: problem.affine.bias,
            relu: problem.fusion.relu,
            running: problem.statistics == Statistics::Running,
            over_affine,
            map: match (map.position, map.position_div) {
                (0, _) => 0,
                (_, 1) => 1,
                (_, div) if div.is_multiple_of(UNIT) => 3,
                _ => 2,
            },
            reduces: pass.reduces,
            merges,
            finishes: pass.finishes
                && (pass.direction == Direction::Forward || (results_are_gradients && wants_gradients)),
            partials: pass.partials_out > 0,
            weighs: pass.weighs,
            update,
            project: problem.statistics == Statistics::Batch,
            weights_vary: match pass.over {
                Over::Stats | Over::Channels => map != IndexMap::OF_TARGET,
                // Those of a channel are weighed as they are merged to those of its group.
                Over::Instances => pass.kernel == Kernel::Apply,
                Over::Affine => false,
            },
            grouped: walk.outer > 1 && walk.inner > 1,
            map_shared: map.target_div > 1,
            map_by_segment: map.segment > 0,
            stats_shared: pass.over == Over::Instances,
            in_a_row: Tensor::ALL.into_iter().all(|t| !pass.touches(t) || plan.walk_of(pass.over, t).stride == 1),
        }
    }

    pub(super) fn pairs(&self) -> [(&'static str, f64); 32] {
        let flag = |b: bool| f64::from(u8::from(b));
        [
            ("WORKGROUP", self.workgroup.into()),
            ("SLOTS", self.slots.into()),
            ("LEAVES", self.leaves.into()),
            ("LEAF_STRIDE", self.leaf_stride.into()),
            ("LANES", self.lanes.into()),
            ("WHOLE", self.whole.into()),
            ("SPACING", self.spacing.into()),
            ("PARTS", self.parts.into()),
            ("ACROSS", flag(self.across)),
            ("FOLDED", flag(self.folded)),
            ("BACKWARDS", flag(self.backwards)),
            ("ROUNDS", self.rounds.into()),
            ("CENTRED", flag(self.centred)),
            ("HAS_WEIGHT", flag(self.has_weight)),
            ("HAS_BIAS", flag(self.has_bias)),
            ("RELU", flag(self.relu)),
            ("RUNNING", flag(self.running)),
            ("OVER_AFFINE", flag(self.over_affine)),
            ("MAP", self.map.into()),
            ("REDUCES", flag(self.reduces)),
            ("MERGES", flag(self.merges)),
            ("FINISHES", flag(self.finishes)),
            ("PARTIALS", flag(self.partials)),
            ("WEIGHS", flag(self.weighs)),
            ("UPDATE", self.update.into()),
            ("PROJECT", flag(self.project)),
            ("WEIGHTS_VARY", flag(self.weights_vary)),
            ("GROUPED", flag(self.grouped)),
            ("MAP_SHARED", flag(self.map_shared)),
            ("MAP_BY_SEGMENT", flag(self.map_by_segment)),
            ("STATS_SHARED", flag(self.stats_shared)),
            ("IN_A_ROW", flag(self.in_a_row)),
        ]
    }
}

/// What a pipeline is made from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub variant: Variant,
    pub constants: Constants,
}

impl Key {
    /// `update`: what a forward pass does to the running statistics.
    pub fn new(plan: &Plan, pass: &Pass, addressing: Addressing, update: u32) -> Key {
        let access =
            |tensor| Access { tensor, dtype: plan.problem.dtype(tensor), written: pass.writes.contains(&tensor) };
        let elements = !pass.reads.is_empty();
        let vec4 = addressing.vec4 || !elements;
        let map = index_map(plan, pass.over);
        let tensors: Vec<Access> = Tensor::ALL.into_iter().filter(|&t| pass.touches(t)).map(access).collect();
        let constants = Constants::new(plan, pass, update);
        debug_assert!(
            pass.geometry.abreast == 1
                || if pass.over == Over::Affine { !constants.running } else { map == IndexMap::OF_TARGET },
            "weights of targets abreast are neighbours: {map:?}"
        );
        Key {
            variant: Variant {
                kernel: pass.kernel,
                direction: pass.direction,
                residual: if elements { plan.problem.fusion.residual } else { Residual::None },
                units: pass.geometry.tree.units,
                parts: pass.geometry.tree.parts > 1,
                abreast: pass.geometry.abreast,
                singles: pass.geometry.tree.singles && matches!(pass.kernel, Kernel::Rows | Kernel::Reduce),
                columns: pass.sums_columns(),
                channels: pass.weighs && pass.kernel == Kernel::Rows,
                addressing: Addressing { vec4, ..addressing },
                unit_weights: elements
                    && vec4
                    && pass.geometry.abreast == 1
                    && pass.over == Over::Stats
                    && (map.position, map.position_div) == (1, 1)
                    && [map.target, map.segment].iter().all(|step| step.is_multiple_of(UNIT)),
                neighbours: !vec4
                    && pass.geometry.abreast == 1
                    && constants.spacing == 1
                    && constants.in_a_row
                    && tensors.iter().any(|t| t.dtype != DType::F32),
                tensors,
                input: plan.problem.input,
            },
            constants,
        }
    }

    pub(super) fn label(&self) -> String {
        let direction = match self.variant.direction {
            Direction::Forward => "forward",
            Direction::Backward => "backward",
        };
        format!("wgpu-norm {direction} {:?}", self.variant.kernel).to_lowercase()
    }
}

/// A pipeline and the layout of its bind group.
#[derive(Debug)]
pub(crate) struct Pipeline {
    pub pipeline: wgpu::ComputePipeline,
    pub bindings: wgpu::BindGroupLayout,
}

#[derive(Debug)]
struct Inner {
    device: wgpu::Device,
    profile: Profile,
    cache: Option<wgpu::PipelineCache>,
    pipelines: Mutex<HashMap<Key, Arc<OnceLock<Arc<Pipeline>>>>>,
    /// Stands in for buffers that a pass does not use.
    unused: wgpu::Buffer,
}

/// A device and the pipelines made for it. Cheap to clone; layers of one device share one. Several threads may use one
/// at once: a pipeline that two of them need is made once, and only they wait for it.
#[derive(Clone, Debug)]
pub struct Context(Arc<Inner>);

impl Context {
    /// A context on a device that was opened with WebGPU's default limits or better.
    ///
    /// [`Error::Limit`] if it has less than the kernels need: 8 storage buffers a stage, 8 KiB of workgroup
    /// memory. Downlevel limits of WebGL2 are not enough.
    pub fn new(device: &wgpu::Device) -> Result<Context, Error> {
        let profile = Profile::new(device.adapter_info().device_type, &device.limits());
        Context::with_profile(device, profile, None)
    }

    /// As [`Context::new`], with a pipeline cache of yours.
    pub fn with_cache(device: &wgpu::Device, cache: &wgpu::PipelineCache) -> Result<Context, Error> {
        let profile = Profile::new(device.adapter_info().device_type, &device.limits());
        Context::with_profile(device, profile, Some(cache))
    }

    /// As [`Context::new`], with sizes of your own: for tests of splitting, and for tuning. [`Error::Parameter`] if they
    /// make no sense.
    pub fn with_profile(
        device: &wgpu::Device,
        profile: Profile,
        cache: Option<&wgpu::PipelineCache>,
    ) -> Result<Context, Error> {
        let limits = device.limits();
        let needs = [
            (
                "max_storage_buffers_per_shader_stage",
                u64::from(STORAGE_BUFFERS),
                u64::from(limits.max_storage_buffers_per_shader_stage),
            ),
            (
                "max_compute_workgroup_storage_size",
                profile.workgroup_memory(),
                limits.max_compute_workgroup_storage_size.into(),
            ),
            (
                "max_compute_invocations_per_workgroup",
                profile.workgroup.into(),
                limits.max_compute_invocations_per_workgroup.into(),
            ),
        ];
        for (name, required, actual) in needs {
            if actual < required {
                return Err(Error::Limit { name, required, actual });
            }
        }
        profile.check()?;
        let unused = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("wgpu-norm unused"),
            size: 256,
            usage: wgpu::BufferUsages::STORAGE,
            mapped_at_creation: false,
        });
        Ok(Context(Arc::new(Inner {
            device: device.clone(),
            profile,
            cache: cache.cloned(),
            pipelines: Mutex::default(),
            unused,
        })))
    }

    /// The device.
    pub fn device(&self) -> &wgpu::Device {
        &self.0.device
    }

    /// The sizes in use.
    pub fn profile(&self) -> &Profile {
        &self.0.profile
    }

    pub(crate) fn unused(&self) -> &wgpu::Buffer {
        &self.0.unused
    }

    pub(crate) fn pipeline(&self, key: Key) -> Arc<Pipeline> {
        let mut pipelines = self.0.pipelines.lock().unwrap_or_else(PoisonError::into_inner);
        let pipeline = match pipelines.get(&key) {
            Some(pipeline) => pipeline.clone(),
            None => pipelines.entry(key.clone()).or_default().clone(),
        };
        // A driver compiles for long: threads that want other pipelines do not wait for it.
        drop(pipelines);
        pipeline.get_or_init(|| Arc::new(self.create(&key))).clone()
    }

    fn create(&self, key: &Key) -> Pipeline {
        let (device, label) = (&self.0.device, key.label());
        let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: Some(&label),
            source: wgpu::ShaderSource::Wgsl(compose(&key.variant).into()),
        });
        let entry = |binding, ty| wgpu::BindGroupLayoutEntry {
            binding,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None },
            count: None,
        };
        let storage = |read_only| wgpu::BufferBindingType::Storage { read_only };
        let mut entries = vec![entry(0, wgpu::BufferBindingType::Uniform)];
        entries.extend(
            key.variant
                .tensors
                .iter()
                .map(|t| entry(t.tensor.binding(), storage(!t.written && !key.variant.addressing.shared))),
        );
        entries.extend(VECTOR_BINDINGS.map(|binding| entry(binding, storage(false))));
        let bindings = device
            .create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: Some(&label), entries: &entries });
        let layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(&label),
            bind_group_layouts: &[Some(&bindings)],
            immediate_size: 0,
        });
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(&label),
            layout: Some(&layout),
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &key.constants.pairs(),
                // Every slot is written before it is read.
                zero_initialize_workgroup_memory: false,
            },
            cache: self.0.cache.as_ref(),
        });
        Pipeline { pipeline, bindings }
    }
}

/// State, saved statistics, partial results.
pub(crate) const VECTOR_BINDINGS: [u32; 3] = [6, 7, 8];
