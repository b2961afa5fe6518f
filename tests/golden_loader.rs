//! The golden file's loader: malformed files are told apart, and none makes it panic.

#[path = "common/golden.rs"]
mod golden;

use safetensors::tensor::{Dtype, TensorView, serialize};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::Path;
use wgpu_norm::{DType, Format, NormDescriptor, Residual, Statistics};

/// A golden file to be spoiled.
struct File {
    metadata_key: &'static str,
    cases: Value,
    tensors: Vec<(&'static str, Dtype, Vec<usize>, Vec<u8>)>,
}

impl File {
    /// One small channels-last case with everything that a case can have; values count up in logical order.
    fn good() -> File {
        let case = json!({
            "name": "a", "kind": "batch_norm", "shape": [2, 2, 3], "training": true, "eps": 1e-3, "momentum": 0.25,
            "affine": true, "track_running_stats": true, "activation": "relu", "residual": true,
            "dtype": "float16", "shard_sizes": [2, 0], "channels_last": true,
        });
        let mut file = File { metadata_key: "cases", cases: json!([case]), tensors: Vec::new() };
        for name in ["a/x", "a/residual", "a/dy"] {
            let bytes = (0..12u8).flat_map(|i| half::f16::from_f32(i.into()).to_le_bytes()).collect();
            file.tensors.push((name, Dtype::F16, vec![2, 2, 3], bytes));
        }
        for name in ["a/weight", "a/bias", "a/running_mean", "a/running_var"] {
            let bytes = [0.5f32, 1.5].iter().flat_map(|value| value.to_le_bytes()).collect();
            file.tensors.push((name, Dtype::F32, vec![2], bytes));
        }
        let counting = |n: u8| (0..n).flat_map(|i| f64::from(i).to_le_bytes()).collect();
        for name in ["a/y", "a/dx", "a/dresidual"] {
            file.tensors.push((name, Dtype::F64, vec![2, 2, 3], counting(12)));
        }
        for name in ["a/dweight", "a/dbias", "a/mean", "a/var", "a/running_mean_after", "a/running_var_after"] {
            file.tensors.push((name, Dtype::F64, vec![2], counting(2)));
        }
        file
    }

    fn set(&mut self, parameter: &str, value: Value) {
        self.cases[0][parameter] = value;
    }

    fn remove(&mut self, parameter: &str) {
        self.cases[0].as_object_mut().unwrap().remove(parameter).unwrap();
    }

    fn tensor(&mut self, name: &str) -> &mut (&'static str, Dtype, Vec<usize>, Vec<u8>) {
        self.tensors.iter_mut().find(|tensor| tensor.0 == name).unwrap()
    }

    fn bytes(&self) -> Vec<u8> {
        let cases = match &self.cases {
            Value::String(text) => text.clone(),
            cases => cases.to_string(),
        };
        let tensors = self
            .tensors
            .iter()
            .map(|(name, dtype, shape, bytes)| (*name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
        serialize(tensors, Some(HashMap::from([(self.metadata_key.to_string(), cases)]))).unwrap()
    }
}

#[test]
fn a_good_file_is_read_in_full() {
    let cases = golden::parse(&File::good().bytes()).unwrap();
    let [case] = &cases[..] else { panic!("{cases:?}") };
    assert_eq!((case.name.as_str(), case.kind.as_str(), case.dtype), ("a", "batch_norm", DType::F16));
    assert_eq!((case.format, case.training, case.statistics()), (Format::ChannelsLast, true, Statistics::Batch));
    assert_eq!((case.fusion.residual, case.fusion.relu), (Residual::After, true));
    assert_eq!((case.eps, case.momentum, &case.shard_sizes[..]), (1e-3, Some(0.25), &[2, 0][..]));
    let NormDescriptor::Batch(descriptor) = &case.descriptor else { panic!("{:?}", case.descriptor) };
    assert_eq!((descriptor.num_features, descriptor.eps), (2, 1e-3));
    assert_eq!(case.weight, Some(vec![0.5, 1.5]));
    assert_eq!(case.running, Some((vec![0.5, 1.5], vec![0.5, 1.5])));
    assert_eq!(case.running_after, Some((vec![0.0, 1.0], vec![0.0, 1.0])));
    // (n, c, l) holds 6 n + 3 c + l; memory is (n, l, c).
    let in_memory = vec![0.0, 3.0, 1.0, 4.0, 2.0, 5.0, 6.0, 9.0, 7.0, 10.0, 8.0, 11.0];
    let [step] = &case.steps[..] else { panic!("{case:?}") };
    assert_eq!((&step.x, step.residual.as_ref(), step.dy.as_ref()), (&in_memory, Some(&in_memory), Some(&in_memory)));
    let expected = &step.expected;
    assert_eq!((&expected.y, &expected.dx, &expected.dresidual), (&in_memory, &step.dy, &step.dy));
    assert_eq!((&expected.mean, &expected.dbias), (&Some(vec![0.0, 1.0]), &Some(vec![0.0, 1.0])));
}

#[test]
fn malformed_files_are_told_apart() {
    type Row = (fn(&mut File), &'static str);
    let table: &[Row] = &[
        (|f| f.metadata_key = "other", "its metadata has no key \"cases\""),
        (|f| f.cases = json!("[{"), "\"cases\" is not a JSON list of objects"),
        (|f| f.cases = json!({"name": "a"}), "\"cases\" is not a JSON list of objects"),
        (|f| f.cases = json!([1]), "\"cases\" is not a JSON list of objects"),
        (|f| f.cases = json!([]), "\"cases\" lists no case"),
        (|f| f.remove("name"), "case 0 has no \"name\""),
        (|f| f.set("name", json!(7)), "case 0 has no \"name\""),
        (|f| f.set("name", json!("b")), "case b: tensor \"b/x\" is missing"),
        (|f| f.remove("kind"), "case a: parameter \"kind\" is missing"),
        (|f| f.set("kind", json!("weight_norm")), "case a: unknown kind \"weight_norm\""),
        (|f| f.set("kind", json!("layer_norm")), "parameter \"weight\" is missing"),
        (|f| f.set("kind", json!("rms_norm")), "parameter \"weight\" is missing"),
        (|f| f.set("kind", json!("group_norm")), "parameter \"num_groups\" is missing"),
        (|f| f.set("kind", json!("instance_norm")), "parameter \"weight\" is missing"),
        (|f| f.set("kind", json!("batch_norm_sequence")), "parameter \"shapes\" is missing"),
        (|f| f.set("dtype", json!("float8")), "unknown dtype \"float8\""),
        (|f| f.set("dtype", json!("float32")), "\"a/x\" is F16, F32 was expected"),
        (|f| f.set("activation", json!("gelu")), "unknown activation \"gelu\""),
        (|f| f.set("activation", json!(1)), "unknown activation 1"),
        (|f| f.set("training", json!("yes")), "parameter \"training\" is \"yes\""),
        (|f| f.set("eps", json!(null)), "parameter \"eps\" is null"),
        (|f| f.set("eps", json!(-1.0)), "eps is -1, it must be positive and finite"),
        (|f| f.set("momentum", json!(2)), "momentum is 2, it must be in 0..=1"),
        (|f| f.set("momentum", json!("a lot")), "parameter \"momentum\" is \"a lot\""),
        (|f| f.set("shape", json!(12)), "parameter \"shape\" is 12"),
        (|f| f.set("shape", json!([2, -2, 3])), "parameter \"shape\" is [2,-2,3]"),
        (|f| f.set("shape", json!([2])), "the shape [2] has no channel axis"),
        (|f| f.set("shape", json!([2, 0, 3])), "num_features is 0"),
        (|f| f.set("shape", json!([0, 2, 3])), "N is 0"),
        (|f| f.set("shape", json!([2, 2, 3, 1, 1, 1])), "2 to 5"),
        (|f| f.set("shape", json!([u64::MAX, 2, 3])), "elements of the tensor"),
        (|f| f.set("shape", json!([2, 2, 4])), "\"a/x\" has the shape [2, 2, 3], [2, 2, 4] was expected"),
        (|f| f.set("shard_sizes", json!([1, 2])), "[1, 2] are not the 2 rows of x"),
        (|f| f.set("shard_sizes", json!([u64::MAX, 3])), "are not the 2 rows of x"),
        (|f| f.set("shard_sizes", json!("all")), "parameter \"shard_sizes\" is \"all\""),
        (|f| f.tensor("a/y").0 = "a/z", "tensor \"a/y\" is missing"),
        (|f| f.tensor("a/dresidual").0 = "a/z", "tensor \"a/dresidual\" is missing"),
        (|f| f.tensor("a/running_var_after").0 = "a/z", "tensor \"a/running_var_after\" is missing"),
        (|f| f.tensor("a/dx").2 = vec![12], "\"a/dx\" has the shape [12]"),
        (|f| f.tensor("a/weight").2 = vec![1, 2], "\"a/weight\" has the shape [1, 2]"),
        (|f| f.tensor("a/dx").1 = Dtype::I64, "\"a/dx\" is I64, F64 was expected"),
        (
            |f| f.cases = json!([{"name": "a", "kind": "batch_norm_sequence", "shapes": [], "momentum": null}]),
            "\"shapes\" is empty",
        ),
        (
            |f| {
                f.set("kind", json!("batch_norm_sequence"));
                f.set("shapes", json!([[2, 2, 3], [2, 2, 3]]));
            },
            "tensor \"a/y0\" is missing",
        ),
        (
            |f| {
                f.set("kind", json!("group_norm"));
                f.set("num_groups", json!(0));
                f.set("weight", json!(true));
                f.set("bias", json!(true));
            },
            "2 channels do not split into 0 equal groups",
        ),
        (
            |f| {
                f.set("kind", json!("instance_norm"));
                f.set("weight", json!(true));
                f.set("bias", json!(false));
            },
            "a weight or a bias without the other",
        ),
        (
            |f| {
                f.set("kind", json!("layer_norm"));
                f.set("weight", json!(true));
                f.set("bias", json!(false));
                f.set("normalized_shape", json!([]));
            },
            "normalized_shape is 0",
        ),
    ];
    for (spoil, expected) in table {
        let mut file = File::good();
        spoil(&mut file);
        let error = golden::parse(&file.bytes()).expect_err(expected);
        assert!(error.contains(expected), "{error:?} does not say {expected:?}");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    for path in ["tests/data/absent.safetensors", "tests/data"] {
        let error = golden::load(Path::new(path)).unwrap_err();
        assert!(error.starts_with(&format!("{path}: cannot be read: ")), "{error:?}");
    }
    let error = golden::load(Path::new("Cargo.toml")).unwrap_err();
    assert!(error.starts_with("Cargo.toml: not a complete safetensors file: "), "{error:?}");
}

#[test]
fn every_truncation_is_refused() {
    let bytes = File::good().bytes();
    for length in 0..bytes.len() {
        let error = golden::parse(&bytes[..length]).unwrap_err();
        assert!(error.starts_with("not a complete safetensors file: "), "{length}: {error:?}");
    }
    let longer = [&bytes[..], &[0]].concat();
    assert!(golden::parse(&longer).is_err());
}

#[test]
fn offsets_that_overflow_are_refused() {
    let size = (1u64 << 61) - 1; // eight of these end at u64::MAX - 7
    let tensors = (0..8).map(|i| {
        let tensor = json!({"dtype": "U8", "shape": [size], "data_offsets": [i * size, (i + 1) * size]});
        (i.to_string(), tensor)
    });
    let header = Value::Object(tensors.collect()).to_string();
    let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat();
    assert!(golden::parse(&bytes).unwrap_err().contains("\"0\" ends behind its end"));
}

/// Many of these are still files, with other names, shapes or values; what counts is that none panics.
#[test]
fn no_spoiled_byte_panics() {
    let bytes = File::good().bytes();
    for at in 0..bytes.len() {
        for value in [0, b'9', b'"', b'[', 0xff] {
            let mut spoiled = bytes.clone();
            spoiled[at] = value;
            let _ = golden::parse(&spoiled);
        }
    }
}

#[test]
fn error_is_relative_to_the_largest_and_never_hides_nan() {
    for (actual, expected, error) in [
        (&[1.0, 2.0][..], &[1.0, 2.0][..], 0.0),
        (&[0.25, 0.5], &[0.5, 0.5], 0.25),
        (&[8.0, 3.0], &[8.0, 4.0], 0.125),
        (&[], &[], 0.0),
        (&[1.0], &[1.0, 2.0], f64::INFINITY),
        (&[f64::NAN, 2.0], &[1.0, 2.0], f64::INFINITY),
        (&[f64::NAN], &[f64::NAN], f64::INFINITY),
        (&[f64::INFINITY], &[f64::INFINITY], f64::INFINITY),
    ] {
        assert_eq!(golden::error(actual, expected), error, "{actual:?} {expected:?}");
    }
}
