//! Reads golden files: what PyTorch computed, in the format that `tests/data/generate_pytorch_golden.py` documents.
//!
//! Tests and the conformance example share this file through `#[path]`.
#![allow(dead_code, reason = "each of the programs that share this file uses a part of it")]

use safetensors::tensor::{Dtype, SafeTensors};
use serde_json::{Map, Value};
use std::path::Path;
use wgpu_norm::{
    BatchNormDescriptor, DType, Format, Fusion, GroupNormDescriptor, InstanceNormDescriptor, LayerNormDescriptor,
    Momentum, NormDescriptor, Residual, RmsNormDescriptor, Statistics, TensorDescriptor,
};

/// One case: a layer, and one or more batches that go through it in turn.
#[derive(Clone, Debug)]
pub struct Case {
    pub name: String,
    /// As the file says: "batch_norm", "batch_norm_sequence", "layer_norm", ...
    pub kind: String,
    pub descriptor: NormDescriptor,
    /// As PyTorch had it: the descriptor holds it rounded to `f32`.
    pub eps: f64,
    /// As PyTorch had it; `None`: cumulative, or a norm without.
    pub momentum: Option<f64>,
    /// Element type of x, residual and dy.
    pub dtype: DType,
    pub format: Format,
    pub fusion: Fusion,
    pub training: bool,
    /// Rows of x per device; empty: not sharded.
    pub shard_sizes: Vec<usize>,
    pub weight: Option<Vec<f64>>,
    pub bias: Option<Vec<f64>>,
    /// Running mean and variance before the first step.
    pub running: Option<(Vec<f64>, Vec<f64>)>,
    /// Expected running mean and variance after the last step of training.
    pub running_after: Option<(Vec<f64>, Vec<f64>)>,
    pub steps: Vec<Step>,
}

/// One batch: tensors in the memory order of the case's format.
#[derive(Clone, Debug)]
pub struct Step {
    /// Logical: (N, C, ...), whatever the format.
    pub shape: Vec<usize>,
    pub x: Vec<f64>,
    pub residual: Option<Vec<f64>>,
    /// `None`: the case has no backward pass, and expects no gradients.
    pub dy: Option<Vec<f64>>,
    pub expected: Expected,
}

/// What PyTorch computed in `f64`. What is `None` it did not write down.
#[derive(Clone, Debug)]
pub struct Expected {
    pub y: Vec<f64>,
    pub dx: Option<Vec<f64>>,
    pub dresidual: Option<Vec<f64>>,
    pub dweight: Option<Vec<f64>>,
    pub dbias: Option<Vec<f64>>,
    pub mean: Option<Vec<f64>>,
    /// Biased.
    pub var: Option<Vec<f64>>,
}

impl Case {
    /// Which statistics normalise.
    pub fn statistics(&self) -> Statistics {
        if !self.training && self.running.is_some() { Statistics::Running } else { Statistics::Batch }
    }

    /// What the tensors of a step are.
    pub fn tensor<'a>(&self, step: &'a Step) -> TensorDescriptor<'a> {
        TensorDescriptor { shape: &step.shape, dtype: self.dtype, format: self.format }
    }
}

/// Largest difference in units of `max(1, largest |expected|)`. Infinite when the lengths differ or a NaN or an
/// infinity is on either side, so that `error(...) <= tolerance` is never true of such results.
pub fn error(actual: &[f64], expected: &[f64]) -> f64 {
    if actual.len() != expected.len() || !actual.iter().chain(expected).all(|value| value.is_finite()) {
        return f64::INFINITY;
    }
    let scale = expected.iter().fold(1.0, |scale: f64, e| scale.max(e.abs()));
    actual.iter().zip(expected).fold(0.0, |worst: f64, (a, e)| worst.max((a - e).abs())) / scale
}

/// All cases of a file, or a sentence saying what is wrong with it.
pub fn load(path: &Path) -> Result<Vec<Case>, String> {
    let bytes = std::fs::read(path).map_err(|e| format!("{}: cannot be read: {e}", path.display()))?;
    parse(&bytes).map_err(|e| format!("{}: {e}", path.display()))
}

/// All cases of a file's contents, or a sentence saying what is wrong with them.
pub fn parse(bytes: &[u8]) -> Result<Vec<Case>, String> {
    let not_safetensors = |e| format!("not a complete safetensors file: {e}");
    check_offsets(bytes)?;
    let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(not_safetensors)?;
    let tensors = SafeTensors::deserialize(bytes).map_err(not_safetensors)?;
    let cases = metadata
        .metadata()
        .as_ref()
        .and_then(|metadata| metadata.get("cases"))
        .ok_or("its metadata has no key \"cases\": not a golden file")?;
    let cases: Vec<Map<String, Value>> =
        serde_json::from_str(cases).map_err(|e| format!("\"cases\" is not a JSON list of objects: {e}"))?;
    if cases.is_empty() {
        return Err("\"cases\" lists no case".into());
    }
    cases
        .iter()
        .enumerate()
        .map(|(i, parameters)| {
            let name = parameters.get("name").and_then(Value::as_str).ok_or(format!("case {i} has no \"name\""))?;
            let reader = Reader { name, parameters, tensors: &tensors };
            reader.case().map_err(|e| format!("case {name}: {e}"))
        })
        .collect()
}

/// safetensors 0.8 adds 8 and the header's length to the last offset unchecked: offsets near `u64::MAX` make it
/// panic. What else is wrong with a header it says itself.
fn check_offsets(bytes: &[u8]) -> Result<(), String> {
    let Some((length, rest)) = bytes.split_first_chunk() else { return Ok(()) };
    let header = usize::try_from(u64::from_le_bytes(*length)).ok().and_then(|length| rest.get(..length));
    let tensors: Map<String, Value> = header.and_then(|h| serde_json::from_slice(h).ok()).unwrap_or_default();
    for (name, tensor) in tensors {
        if tensor["data_offsets"][1].as_u64().is_some_and(|end| end > bytes.len() as u64) {
            return Err(format!("not a complete safetensors file: tensor {name:?} ends behind its end"));
        }
    }
    Ok(())
}

/// One case's parameters and the file's tensors.
struct Reader<'a> {
    name: &'a str,
    parameters: &'a Map<String, Value>,
    tensors: &'a SafeTensors<'a>,
}

impl Reader<'_> {
    fn case(&self) -> Result<Case, String> {
        let kind = self.parameter("kind", Value::as_str)?;
        match kind {
            "batch_norm_sequence" => self.sequence(kind),
            "batch_norm" => {
                let affine = self.flag("affine")?;
                let descriptor = BatchNormDescriptor {
                    affine,
                    track_running_stats: self.flag("track_running_stats")?,
                    ..self.batch_norm(&self.sizes("shape")?)?
                };
                self.single(kind, descriptor.into())
            }
            "layer_norm" => {
                let descriptor = LayerNormDescriptor {
                    eps: self.eps()? as f32,
                    weight: self.flag("weight")?,
                    bias: self.flag("bias")?,
                    ..LayerNormDescriptor::new(&self.sizes("normalized_shape")?)
                };
                self.single(kind, descriptor.into())
            }
            "rms_norm" => {
                let descriptor = RmsNormDescriptor {
                    eps: self.eps()? as f32,
                    weight: self.flag("weight")?,
                    ..RmsNormDescriptor::new(&self.sizes("normalized_shape")?)
                };
                self.single(kind, descriptor.into())
            }
            "group_norm" => {
                let groups = self.parameter("num_groups", Value::as_u64)? as usize;
                let descriptor = GroupNormDescriptor {
                    eps: self.eps()? as f32,
                    affine: self.affine()?,
                    ..GroupNormDescriptor::new(groups, channels(&self.sizes("shape")?)?)
                };
                self.single(kind, descriptor.into())
            }
            "instance_norm" => {
                let descriptor = InstanceNormDescriptor {
                    eps: self.eps()? as f32,
                    affine: self.affine()?,
                    ..InstanceNormDescriptor::new(channels(&self.sizes("shape")?)?)
                };
                self.single(kind, descriptor.into())
            }
            other => Err(format!("unknown kind {other:?}")),
        }
    }

    /// A case of one batch, with gradients.
    fn single(&self, kind: &str, descriptor: NormDescriptor) -> Result<Case, String> {
        let shape = self.sizes("shape")?;
        let (dtype, stored) = match self.parameter("dtype", Value::as_str)? {
            "float32" => (DType::F32, Dtype::F32),
            "float16" => (DType::F16, Dtype::F16),
            "bfloat16" => (DType::BF16, Dtype::BF16),
            other => return Err(format!("unknown dtype {other:?}")),
        };
        // Only batch norm's cases say these.
        let only_batch = |key, otherwise| if kind == "batch_norm" { self.flag(key) } else { Ok(otherwise) };
        let has_residual = only_batch("residual", false)?;
        let training = only_batch("training", true)?;
        let format = if only_batch("channels_last", false)? { Format::ChannelsLast } else { Format::ChannelsFirst };
        let relu = match self.parameters.get("activation") {
            None | Some(Value::Null) => false,
            Some(Value::String(activation)) if activation == "relu" => true,
            Some(other) => return Err(format!("unknown activation {other}")),
        };
        check(&descriptor, &shape, format)?;
        let shard_sizes = self.shard_sizes(shape[0])?;

        let input = |name: &str| -> Result<Vec<f64>, String> {
            Ok(in_memory_order(self.tensor(name, &shape, stored)?, &shape, format))
        };
        let expected = |name: &str| -> Result<Vec<f64>, String> {
            Ok(in_memory_order(self.tensor(name, &shape, Dtype::F64)?, &shape, format))
        };
        let affine = descriptor.affine();
        let affine_shape = match &descriptor {
            NormDescriptor::Layer(LayerNormDescriptor { normalized_shape, .. })
            | NormDescriptor::Rms(RmsNormDescriptor { normalized_shape, .. }) => normalized_shape.clone(),
            _ => vec![shape[1]],
        };
        let parameter = |name: &str, dtype| self.tensor(name, &affine_shape, dtype);
        let tracks = descriptor.running_stats().is_some();
        let batch_statistics = kind == "batch_norm" && (training || !tracks);
        let step = Step {
            x: input("x")?,
            residual: has_residual.then(|| input("residual")).transpose()?,
            dy: Some(input("dy")?),
            expected: Expected {
                y: expected("y")?,
                dx: Some(expected("dx")?),
                dresidual: has_residual.then(|| expected("dresidual")).transpose()?,
                dweight: affine.weight.then(|| parameter("dweight", Dtype::F64)).transpose()?,
                dbias: affine.bias.then(|| parameter("dbias", Dtype::F64)).transpose()?,
                mean: batch_statistics.then(|| parameter("mean", Dtype::F64)).transpose()?,
                var: batch_statistics.then(|| parameter("var", Dtype::F64)).transpose()?,
            },
            shape: shape.clone(),
        };
        let pair = |mean, var, dtype| Ok::<_, String>((parameter(mean, dtype)?, parameter(var, dtype)?));
        Ok(Case {
            name: self.name.into(),
            kind: kind.into(),
            eps: self.eps()?,
            momentum: if tracks { self.momentum()? } else { None },
            dtype,
            format,
            fusion: Fusion { residual: if has_residual { Residual::After } else { Residual::None }, relu },
            training,
            shard_sizes,
            weight: affine.weight.then(|| parameter("weight", Dtype::F32)).transpose()?,
            bias: affine.bias.then(|| parameter("bias", Dtype::F32)).transpose()?,
            running: tracks.then(|| pair("running_mean", "running_var", Dtype::F32)).transpose()?,
            running_after: (tracks && training)
                .then(|| pair("running_mean_after", "running_var_after", Dtype::F64))
                .transpose()?,
            steps: vec![step],
            descriptor,
        })
    }

    /// Batches x0, x1, ... through one new BatchNorm in training, forward only.
    fn sequence(&self, kind: &str) -> Result<Case, String> {
        let shapes = self.list("shapes")?.iter().map(|shape| sizes("shapes", shape)).collect::<Result<Vec<_>, _>>()?;
        let descriptor = self.batch_norm(shapes.first().ok_or("\"shapes\" is empty")?)?;
        let channels = descriptor.num_features;
        let descriptor = NormDescriptor::from(descriptor);
        let step = |(i, shape): (usize, &Vec<usize>)| -> Result<Step, String> {
            check(&descriptor, shape, Format::ChannelsFirst)?;
            let y = self.tensor(&format!("y{i}"), shape, Dtype::F64)?;
            Ok(Step {
                shape: shape.clone(),
                x: self.tensor(&format!("x{i}"), shape, Dtype::F32)?,
                residual: None,
                dy: None,
                expected: Expected { y, dx: None, dresidual: None, dweight: None, dbias: None, mean: None, var: None },
            })
        };
        let steps = shapes.iter().enumerate().map(step).collect::<Result<Vec<_>, _>>()?;
        let tracked = self.parameter("num_batches_tracked", Value::as_u64)?;
        if tracked != steps.len() as u64 {
            return Err(format!("num_batches_tracked is {tracked}, there are {} shapes", steps.len()));
        }
        let after = |name| self.tensor(name, &[channels], Dtype::F64);
        Ok(Case {
            name: self.name.into(),
            kind: kind.into(),
            eps: self.eps()?,
            momentum: self.momentum()?,
            dtype: DType::F32,
            format: Format::ChannelsFirst,
            fusion: Fusion::default(),
            training: true,
            shard_sizes: Vec::new(),
            // What PyTorch's layer starts with.
            weight: Some(vec![1.0; channels]),
            bias: Some(vec![0.0; channels]),
            running: Some((vec![0.0; channels], vec![1.0; channels])),
            running_after: Some((after("running_mean_after")?, after("running_var_after")?)),
            steps,
            descriptor,
        })
    }

    fn batch_norm(&self, shape: &[usize]) -> Result<BatchNormDescriptor, String> {
        let momentum = self.momentum()?.map_or(Momentum::Cumulative, |m| Momentum::Exponential(m as f32));
        Ok(BatchNormDescriptor { eps: self.eps()? as f32, momentum, ..BatchNormDescriptor::new(channels(shape)?) })
    }

    fn eps(&self) -> Result<f64, String> {
        self.parameter("eps", Value::as_f64)
    }

    fn momentum(&self) -> Result<Option<f64>, String> {
        self.parameter("momentum", |m| if m.is_null() { Some(None) } else { m.as_f64().map(Some) })
    }

    /// Group and instance norm have both weight and bias, or neither.
    fn affine(&self) -> Result<bool, String> {
        let (weight, bias) = (self.flag("weight")?, self.flag("bias")?);
        if weight == bias { Ok(weight) } else { Err("has a weight or a bias without the other".into()) }
    }

    fn shard_sizes(&self, rows: usize) -> Result<Vec<usize>, String> {
        match self.parameters.get("shard_sizes") {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(value) => {
                let shards = sizes("shard_sizes", value)?;
                let total = shards.iter().try_fold(0usize, |total, &rows| total.checked_add(rows));
                if total == Some(rows) { Ok(shards) } else { Err(format!("{shards:?} are not the {rows} rows of x")) }
            }
        }
    }

    fn parameter<'a, T>(&'a self, key: &str, read: impl Fn(&'a Value) -> Option<T>) -> Result<T, String> {
        let value = self.parameters.get(key).ok_or(format!("parameter {key:?} is missing"))?;
        read(value).ok_or(format!("parameter {key:?} is {value}, which it cannot be"))
    }

    fn flag(&self, key: &str) -> Result<bool, String> {
        self.parameter(key, Value::as_bool)
    }

    fn list(&self, key: &str) -> Result<&Vec<Value>, String> {
        self.parameter(key, Value::as_array)
    }

    fn sizes(&self, key: &str) -> Result<Vec<usize>, String> {
        self.parameter(key, Some).and_then(|value| sizes(key, value))
    }

    fn tensor(&self, name: &str, shape: &[usize], dtype: Dtype) -> Result<Vec<f64>, String> {
        let full_name = format!("{}/{name}", self.name);
        let view = self.tensors.tensor(&full_name).map_err(|_| format!("tensor {full_name:?} is missing"))?;
        if view.shape() != shape {
            return Err(format!("tensor {full_name:?} has the shape {:?}, {shape:?} was expected", view.shape()));
        }
        if view.dtype() != dtype {
            return Err(format!("tensor {full_name:?} is {:?}, {dtype:?} was expected", view.dtype()));
        }
        Ok(match dtype {
            Dtype::F64 => numbers(view.data(), f64::from_le_bytes),
            Dtype::F32 => numbers(view.data(), |bytes| f32::from_le_bytes(bytes).into()),
            Dtype::F16 => numbers(view.data(), |bytes| half::f16::from_le_bytes(bytes).into()),
            Dtype::BF16 => numbers(view.data(), |bytes| half::bf16::from_le_bytes(bytes).into()),
            other => return Err(format!("tensor {full_name:?} is {other:?}, which no case has")),
        })
    }
}

fn numbers<const SIZE: usize>(bytes: &[u8], number: impl Fn([u8; SIZE]) -> f64) -> Vec<f64> {
    bytes.as_chunks().0.iter().map(|&bytes| number(bytes)).collect()
}

fn sizes(key: &str, value: &Value) -> Result<Vec<usize>, String> {
    let sizes = value.as_array().and_then(|list| list.iter().map(|n| usize::try_from(n.as_u64()?).ok()).collect());
    sizes.ok_or(format!("parameter {key:?} is {value}, it must hold lists of sizes"))
}

fn channels(shape: &[usize]) -> Result<usize, String> {
    shape.get(1).copied().ok_or(format!("the shape {shape:?} has no channel axis"))
}

fn check(descriptor: &NormDescriptor, shape: &[usize], format: Format) -> Result<(), String> {
    descriptor.validate().map_err(|e| e.to_string())?;
    descriptor.layout(&TensorDescriptor { format, ..TensorDescriptor::new(shape) }).map_err(|e| e.to_string())?;
    Ok(())
}

/// The file holds every tensor in logical order (N, C, positions); channels-last memory is (N, positions, C).
fn in_memory_order(values: Vec<f64>, shape: &[usize], format: Format) -> Vec<f64> {
    if format == Format::ChannelsFirst {
        return values;
    }
    let (channels, positions) = (shape[1], shape[2..].iter().product::<usize>());
    let mut reordered = Vec::with_capacity(values.len());
    for sample in values.chunks_exact(channels * positions) {
        for position in 0..positions {
            reordered.extend(sample.iter().skip(position).step_by(positions));
        }
    }
    reordered
}
