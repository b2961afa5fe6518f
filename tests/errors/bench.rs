//! A layer, its buffers, and how an error is checked.

use super::adapters::{self, Gpu};
use super::transfer;
use wgpu::util::DeviceExt;
use wgpu::{Buffer, BufferBinding, BufferUsages, CommandEncoder};
use wgpu_norm::{Commit, Error, Fusion, NormDescriptor, Residual, TensorDescriptor, gpu};

pub const PLAIN: Fusion = Fusion { residual: Residual::None, relu: false };
pub const AFTER: Fusion = Fusion { residual: Residual::After, relu: false };
pub const AFTER_RELU: Fusion = Fusion { residual: Residual::After, relu: true };
pub const BEFORE: Fusion = Fusion { residual: Residual::Before, relu: false };

/// Checks an error's variant and that its message has every one of some words; evaluates to nothing.
macro_rules! fails {
    ($result:expr, $variant:pat, $words:expr) => {{
        let words: &[&str] = &$words;
        match $result {
            Ok(_) => panic!("line {}: no error", line!()),
            Err(error) => {
                assert!(matches!(error, $variant), "line {}: {error:?}", line!());
                let message = error.to_string();
                for word in words {
                    assert!(message.contains(word), "line {}: {message:?} lacks {word:?}", line!());
                }
            }
        }
    }};
}

/// A layer on a device, and poisoned buffers of its size.
pub struct Bench<'a> {
    pub gpu: &'a Gpu,
    pub norm: gpu::Norm,
    pub buffers: Vec<Buffer>,
}

/// Elements of the test tensor (2, 4, 8), and more words behind them.
pub const LEN: u64 = 64;
pub const SHAPE: [usize; 3] = [2, 4, 8];
pub const ROOM: u64 = 256;

impl<'a> Bench<'a> {
    pub fn new(gpu: &'a Gpu, descriptor: impl Into<NormDescriptor>) -> Bench<'a> {
        let context = gpu::Context::new(&gpu.device).unwrap();
        let usage = BufferUsages::STORAGE | BufferUsages::COPY_SRC | BufferUsages::COPY_DST;
        Bench {
            gpu,
            norm: gpu::Norm::new(&context, descriptor).unwrap(),
            buffers: (0..6).map(|_| buffer(gpu, usage, ROOM)).collect(),
        }
    }

    /// The first elements of a buffer.
    pub fn b(&self, i: usize) -> BufferBinding<'_> {
        self.buffers[i].as_entire_buffer_binding()
    }

    pub fn at(&self, i: usize, offset: u64) -> BufferBinding<'_> {
        BufferBinding { offset, ..self.b(i) }
    }

    /// x in buffer 0, y in 1.
    pub fn io(&self) -> gpu::Forward<'_> {
        gpu::Forward::new(self.b(0), self.b(1))
    }

    /// x in buffer 0, dy in 1, dx in 2, dweight in 3, dbias in 4.
    pub fn gradients(&self) -> gpu::Backward<'_> {
        gpu::Backward {
            dx: Some(self.b(2)),
            dweight: Some(self.b(3)),
            dbias: Some(self.b(4)),
            ..gpu::Backward::new(self.b(0), self.b(1))
        }
    }

    /// Everything that a call could write.
    pub fn bytes(&self, encoder: CommandEncoder) -> Vec<Vec<u8>> {
        let buffers: Vec<&Buffer> = self.buffers.iter().chain([self.norm.state_buffer()]).collect();
        transfer::read_all(self.gpu, encoder, &buffers)
    }

    pub fn encoder(&self) -> CommandEncoder {
        self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default())
    }

    /// Runs a call that must fail, and returns its result once it is clear that it wrote nothing.
    pub fn nothing_written<T>(
        &self,
        call: impl FnOnce(&gpu::Norm, &mut CommandEncoder) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let before = self.bytes(self.encoder());
        let mut encoder = self.encoder();
        let result = call(&self.norm, &mut encoder);
        if result.is_err() {
            assert!(self.bytes(encoder) == before, "a call that failed has written");
        }
        result
    }

    pub fn train(&self, tensor: &TensorDescriptor, fusion: Fusion, io: &gpu::Forward) -> Result<gpu::Saved, Error> {
        self.nothing_written(|norm, encoder| norm.forward_train(encoder, tensor, fusion, io, Commit::Update))
    }

    pub fn frozen(&self, tensor: &TensorDescriptor, fusion: Fusion, io: &gpu::Forward) -> Result<gpu::Saved, Error> {
        self.nothing_written(|norm, encoder| norm.forward_frozen(encoder, tensor, fusion, io))
    }

    pub fn eval(&self, tensor: &TensorDescriptor, fusion: Fusion, io: &gpu::Forward) -> Result<(), Error> {
        self.nothing_written(|norm, encoder| norm.forward_eval(encoder, tensor, fusion, io))
    }

    /// A forward pass that succeeds, and its backward pass.
    pub fn backward(&self, fusion: Fusion, io: &gpu::Backward) -> Result<(), Error> {
        let tensor = TensorDescriptor::new(&SHAPE);
        let forward = gpu::Forward {
            residual: (fusion.residual != Residual::None).then(|| self.b(2)),
            sum: (fusion.residual == Residual::Before).then(|| self.b(3)),
            ..self.io()
        };
        let mut encoder = self.encoder();
        let saved = self.norm.forward_train(&mut encoder, &tensor, fusion, &forward, Commit::Update).unwrap();
        self.gpu.queue.submit([encoder.finish()]);
        self.nothing_written(|norm, encoder| norm.backward(encoder, saved, io))
    }
}

pub fn buffer(gpu: &Gpu, usage: BufferUsages, words: u64) -> Buffer {
    gpu.device.create_buffer_init(&wgpu::util::BufferInitDescriptor {
        label: Some("test"),
        contents: &vec![0x3c; words as usize * 4],
        usage,
    })
}

pub fn each_gpu(test: impl Fn(&Gpu)) {
    for gpu in adapters::all() {
        let _turn = gpu.turn();
        test(gpu);
    }
}
