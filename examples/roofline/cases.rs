//! What is measured: one table for the roofline example and for `cargo bench`.
#![allow(dead_code, reason = "each of the programs that share this file uses a part of it")]

use wgpu_norm::plan::Problem;
use wgpu_norm::{
    BatchNormDescriptor, DType, Format, Fusion, Gradients, GroupNormDescriptor, InstanceNormDescriptor,
    LayerNormDescriptor, NormDescriptor, Op, RmsNormDescriptor, Statistics, TensorDescriptor,
};

/// Which call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Train,
    Eval,
    Backward,
}

impl Call {
    pub const ALL: [Call; 3] = [Call::Train, Call::Eval, Call::Backward];

    pub fn name(self) -> &'static str {
        match self {
            Call::Train => "train",
            Call::Eval => "eval",
            Call::Backward => "backward",
        }
    }
}

#[derive(Clone, Debug)]
pub struct Case {
    pub norm: NormDescriptor,
    pub shape: Vec<usize>,
    pub dtype: DType,
    pub format: Format,
    pub call: Call,
}

impl Case {
    pub fn tensor(&self) -> TensorDescriptor<'_> {
        TensorDescriptor { shape: &self.shape, dtype: self.dtype, format: self.format }
    }

    /// Shape, and what is not the default.
    pub fn name(&self) -> String {
        let shape: Vec<String> = self.shape.iter().map(usize::to_string).collect();
        let mut name = format!("{} {}", self.norm.name(), shape.join("x"));
        if self.dtype != DType::F32 {
            name += &format!(" {:?}", self.dtype).to_lowercase();
        }
        if self.format == Format::ChannelsLast {
            name += " channels-last";
        }
        name
    }

    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Bytes of one full-size tensor.
    pub fn tensor_bytes(&self) -> u64 {
        self.elements() as u64 * self.dtype.size()
    }

    /// Bytes that the call cannot do without: inputs read once, the output written once.
    pub fn least_bytes(&self) -> u64 {
        self.tensor_bytes() * if self.call == Call::Backward { 3 } else { 2 }
    }

    /// The call as plans know it.
    pub fn problem(&self) -> Problem {
        let statistics = if self.call == Call::Eval { Statistics::Running } else { Statistics::Batch };
        let wanted = Gradients { dx: true, dresidual: false, affine: true };
        let op = if self.call == Call::Backward { Op::Backward(wanted) } else { Op::Forward };
        Problem::new(&self.norm, &self.tensor(), statistics, Fusion::default(), op).expect("the table is valid")
    }

    /// The samples that the whole batch repeats: the reference, which would take minutes for all, knows all from these.
    pub fn period(&self) -> Case {
        let sample: usize = self.shape[1..].iter().product();
        let mut shape = self.shape.clone();
        while shape[0].is_multiple_of(2) && shape[0] > 2 && shape[0] * sample > 1 << 21 {
            shape[0] /= 2;
        }
        Case { shape, ..self.clone() }
    }
}

/// Images of ResNet-50 and of detection networks, rows of transformers, batches of rows.
pub fn cases(quick: bool) -> Vec<Case> {
    let batch = |shape: &[usize]| (NormDescriptor::from(BatchNormDescriptor::new(shape[1])), shape.to_vec());
    let layer = |m, d: usize| (NormDescriptor::from(LayerNormDescriptor::new(&[d])), vec![m, d]);
    let rms = |m, d: usize| (NormDescriptor::from(RmsNormDescriptor::new(&[d])), vec![m, d]);
    let group = |g, shape: &[usize]| (NormDescriptor::from(GroupNormDescriptor::new(g, shape[1])), shape.to_vec());
    let instance = |shape: &[usize]| (NormDescriptor::from(InstanceNormDescriptor::new(shape[1])), shape.to_vec());
    let full = if quick {
        vec![
            batch(&[64, 64, 28, 28]),
            batch(&[4, 64, 28, 28]),
            layer(1024, 768),
            rms(1024, 768),
            group(32, &[2, 64, 56, 56]),
            instance(&[4, 64, 56, 56]),
        ]
    } else {
        vec![
            batch(&[64, 64, 28, 28]),
            batch(&[32, 256, 56, 56]),
            batch(&[32, 512, 28, 28]),
            batch(&[32, 1024, 14, 14]),
            batch(&[32, 2048, 7, 7]),
            batch(&[32, 64, 112, 112]),
            batch(&[4, 64, 28, 28]),
            batch(&[64, 32]),
            batch(&[4096, 1024]),
            layer(8192, 768),
            rms(8192, 768),
            group(32, &[2, 256, 100, 152]),
            instance(&[8, 64, 128, 128]),
        ]
    };
    let shape = if quick { [16, 64, 28, 28] } else { [32, 512, 28, 28] };
    let (first, last) = (Format::ChannelsFirst, Format::ChannelsLast);
    let mut variants = vec![
        (DType::F16, first, shape),
        (DType::BF16, first, shape),
        (DType::F32, last, shape),
        (DType::F16, last, shape),
    ];
    if !quick {
        // Rows of halves that end within a vector, or within a word, and rows of few channels.
        variants.extend([
            (DType::F16, first, [32, 1024, 14, 14]),
            (DType::F16, first, [32, 2048, 7, 7]),
            (DType::F32, last, [32, 64, 112, 112]),
            (DType::F16, last, [32, 2048, 7, 7]),
        ]);
    }
    let groups = (!quick).then(|| group(32, &[2, 256, 100, 152]));
    let full = full.into_iter().map(|(norm, shape)| (norm, shape, DType::F32, first));
    let variants = variants.into_iter().map(|(dtype, format, shape)| {
        let (norm, shape) = batch(&shape);
        (norm, shape, dtype, format)
    });
    let groups = groups.into_iter().map(|(norm, shape)| (norm, shape, DType::F32, last));
    let mut cases = Vec::new();
    for (norm, shape, dtype, format) in full.chain(variants).chain(groups) {
        for call in Call::ALL {
            if call != Call::Eval || norm.running_stats().is_some() {
                cases.push(Case { norm: norm.clone(), shape: shape.clone(), dtype, format, call });
            }
        }
    }
    cases
}
