//! Bad input: which error, what it says, and that nothing was written.

#[path = "common/adapters.rs"]
mod adapters;

use adapters::Gpu;
use std::num::NonZero;
use wgpu::util::DeviceExt;
use wgpu::{Buffer, BufferBinding, BufferUsages, CommandEncoder};
use wgpu_norm::plan::{Plan, Problem};
use wgpu_norm::{
    BatchNormDescriptor, Commit, DType, Error, Format, Fusion, Gradients, GroupNormDescriptor, InstanceNormDescriptor,
    LayerNormDescriptor, Moments, Momentum, NormDescriptor, Op, Profile, Residual, RmsNormDescriptor, Running, State,
    Statistics, TensorDescriptor, gpu, half, host,
};

const PLAIN: Fusion = Fusion { residual: Residual::None, relu: false };
const AFTER: Fusion = Fusion { residual: Residual::After, relu: false };
const AFTER_RELU: Fusion = Fusion { residual: Residual::After, relu: true };
const BEFORE: Fusion = Fusion { residual: Residual::Before, relu: false };

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
struct Bench<'a> {
    gpu: &'a Gpu,
    norm: gpu::Norm,
    buffers: Vec<Buffer>,
}

/// Elements of the test tensor (2, 4, 8), and more words behind them.
const LEN: u64 = 64;
const SHAPE: [usize; 3] = [2, 4, 8];
const ROOM: u64 = 256;

impl<'a> Bench<'a> {
    fn new(gpu: &'a Gpu, descriptor: impl Into<NormDescriptor>) -> Bench<'a> {
        let context = gpu::Context::new(&gpu.device).unwrap();
        let usage = BufferUsages::STORAGE | BufferUsages::COPY_SRC | BufferUsages::COPY_DST;
        Bench {
            gpu,
            norm: gpu::Norm::new(&context, descriptor).unwrap(),
            buffers: (0..6).map(|_| buffer(gpu, usage, ROOM)).collect(),
        }
    }

    /// The first elements of a buffer.
    fn b(&self, i: usize) -> BufferBinding<'_> {
        self.buffers[i].as_entire_buffer_binding()
    }

    fn at(&self, i: usize, offset: u64) -> BufferBinding<'_> {
        BufferBinding { offset, ..self.b(i) }
    }

    /// x in buffer 0, y in 1.
    fn io(&self) -> gpu::Forward<'_> {
        gpu::Forward::new(self.b(0), self.b(1))
    }

    /// x in buffer 0, dy in 1, dx in 2, dweight in 3, dbias in 4.
    fn gradients(&self) -> gpu::Backward<'_> {
        gpu::Backward {
            dx: Some(self.b(2)),
            dweight: Some(self.b(3)),
            dbias: Some(self.b(4)),
            ..gpu::Backward::new(self.b(0), self.b(1))
        }
    }

    /// Everything that a call could write.
    fn bytes(&self, encoder: CommandEncoder) -> Vec<Vec<u8>> {
        let buffers: Vec<&Buffer> = self.buffers.iter().chain([self.norm.state_buffer()]).collect();
        let mut encoder = encoder;
        let copies: Vec<Buffer> = buffers
            .into_iter()
            .map(|from| {
                let to = self.gpu.device.create_buffer(&wgpu::BufferDescriptor {
                    label: Some("readback"),
                    size: from.size(),
                    usage: BufferUsages::MAP_READ | BufferUsages::COPY_DST,
                    mapped_at_creation: false,
                });
                encoder.copy_buffer_to_buffer(from, 0, &to, 0, from.size());
                to
            })
            .collect();
        self.gpu.queue.submit([encoder.finish()]);
        copies.iter().for_each(|copy| copy.map_async(wgpu::MapMode::Read, .., |result| result.unwrap()));
        self.gpu.device.poll(wgpu::PollType::wait_indefinitely()).unwrap();
        copies.iter().map(|copy| copy.get_mapped_range(..).unwrap().to_vec()).collect()
    }

    fn encoder(&self) -> CommandEncoder {
        self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default())
    }

    /// Runs a call that must fail, and returns its result once it is clear that it wrote nothing.
    fn nothing_written<T>(
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

    fn train(&self, tensor: &TensorDescriptor, fusion: Fusion, io: &gpu::Forward) -> Result<gpu::Saved, Error> {
        self.nothing_written(|norm, encoder| norm.forward_train(encoder, tensor, fusion, io, Commit::Update))
    }

    fn frozen(&self, tensor: &TensorDescriptor, fusion: Fusion, io: &gpu::Forward) -> Result<gpu::Saved, Error> {
        self.nothing_written(|norm, encoder| norm.forward_frozen(encoder, tensor, fusion, io))
    }

    fn eval(&self, tensor: &TensorDescriptor, fusion: Fusion, io: &gpu::Forward) -> Result<(), Error> {
        self.nothing_written(|norm, encoder| norm.forward_eval(encoder, tensor, fusion, io))
    }

    /// A forward pass that succeeds, and its backward pass.
    fn backward(&self, fusion: Fusion, io: &gpu::Backward) -> Result<(), Error> {
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

fn buffer(gpu: &Gpu, usage: BufferUsages, words: u64) -> Buffer {
    gpu.device.create_buffer_init(&wgpu::util::BufferInitDescriptor {
        label: Some("test"),
        contents: &vec![0x3c; words as usize * 4],
        usage,
    })
}

fn each_gpu(test: impl Fn(&Gpu)) {
    for gpu in adapters::all() {
        let _turn = gpu.turn();
        test(gpu);
    }
}

#[test]
fn shapes() {
    each_gpu(|gpu| {
        let bench = Bench::new(gpu, BatchNormDescriptor::new(4));
        let train = |shape: &[usize]| bench.train(&TensorDescriptor::new(shape), PLAIN, &bench.io());
        let eval = |shape: &[usize]| bench.eval(&TensorDescriptor::new(shape), PLAIN, &bench.io());
        fails!(train(&[4]), Error::Rank { .. }, ["BatchNorm", "[4]", "has 1"]);
        fails!(eval(&[]), Error::Rank { .. }, ["has 0"]);
        fails!(train(&[1, 4, 1, 1, 1, 2]), Error::Rank { .. }, ["has 6"]);
        fails!(train(&[2, 5, 8]), Error::Axis { expected: 4, actual: 5, .. }, ["[2, 5, 8]", "is 5", "for 4"]);
        fails!(train(&[0, 4, 8]), Error::Empty { .. }, ["N is 0"]);
        fails!(eval(&[2, 4, 0]), Error::Empty { .. }, ["spatial axis 2 is 0"]);
        fails!(train(&[1, 4]), Error::TooFewValues { count: 1, .. }, ["more than 1 value", "[1, 4]", "evaluation"]);
        fails!(train(&[1, 4, 1, 1]), Error::TooFewValues { .. }, ["larger batch", "GroupNorm"]);
        assert!(bench.eval(&TensorDescriptor::new(&[1, 4]), PLAIN, &bench.io()).is_ok());
        // 257 elements in 256 words; the largest of shapes.
        fails!(eval(&[65, 4]), Error::BufferTooSmall { .. }, ["x needs 1040", "has 1024"]);
        for n in [1 << 30, 1 << 32, 1 << 40, 1 << 60, usize::MAX / 4, usize::MAX] {
            for shape in [&[n, 4][..], &[1, 4, n], &[n, 4, n], &[n, 4, 1, n, n], &[2, n, 2]] {
                let variant = train(shape).expect_err("no such buffer");
                let known = matches!(
                    variant,
                    Error::TooLarge { .. } | Error::BufferTooSmall { .. } | Error::Axis { .. } | Error::Rank { .. }
                );
                assert!(known, "{shape:?}: {variant:?}");
                eval(shape).expect_err("no such buffer");
            }
        }
        let instance = Bench::new(gpu, InstanceNormDescriptor::new(4));
        let one = TensorDescriptor::new(&[16, 4, 1]);
        fails!(instance.train(&one, PLAIN, &instance.io()), Error::TooFewValues { .. }, ["[16, 4, 1]"]);
        let layer = Bench::new(gpu, LayerNormDescriptor::new(&[8]));
        let last = TensorDescriptor { format: Format::ChannelsLast, ..TensorDescriptor::new(&SHAPE) };
        fails!(layer.train(&last, PLAIN, &layer.io()), Error::Unexpected { .. }, ["ChannelsLast"]);
        fails!(
            layer.nothing_written(|norm, e| norm.forward_frozen(e, &TensorDescriptor::new(&SHAPE), PLAIN, &layer.io())),
            Error::Missing { .. },
            ["running statistics"]
        );
    });
}

#[test]
fn descriptors() {
    let bn = BatchNormDescriptor::new;
    each_gpu(|gpu| {
        let context = gpu::Context::new(&gpu.device).unwrap();
        let made = |d: NormDescriptor| gpu::Norm::new(&context, d);
        let cpu = |d: NormDescriptor| host::Norm::new(&host::Backend::Cpu, d);
        macro_rules! both {
            ($descriptor:expr, $variant:pat, $words:expr) => {{
                fails!(made($descriptor.into()), $variant, $words);
                fails!(cpu($descriptor.into()), $variant, $words);
            }};
        }
        both!(bn(0), Error::Empty { .. }, ["num_features is 0"]);
        both!(GroupNormDescriptor::new(3, 8), Error::Groups { .. }, ["8 channels", "3 equal"]);
        both!(GroupNormDescriptor::new(0, 8), Error::Groups { .. }, ["0 equal"]);
        both!(LayerNormDescriptor::new(&[]), Error::Empty { .. }, ["normalized_shape"]);
        both!(RmsNormDescriptor::new(&[3, 0]), Error::Empty { .. }, ["normalized_shape"]);
        for (eps, text) in [(0.0, "is 0,"), (1e-38, "0.0"), (-1.0, "-1"), (f32::NAN, "NaN"), (f32::INFINITY, "inf")] {
            both!(BatchNormDescriptor { eps, ..bn(4) }, Error::Parameter { name: "eps", .. }, [text, "positive"]);
        }
        for (m, text) in [(-0.1, "-0.1"), (1.1, "1.1"), (f32::NAN, "NaN")] {
            let descriptor = || BatchNormDescriptor { momentum: Momentum::Exponential(m), ..bn(4) };
            both!(descriptor(), Error::Parameter { name: "momentum", .. }, [text, "0..=1"]);
        }
        for absurd in [1 << 40, usize::MAX / 8, usize::MAX] {
            both!(bn(absurd), Error::TooLarge { .. }, ["needed, the limit is"]);
            both!(LayerNormDescriptor::new(&[absurd]), Error::TooLarge { .. }, ["needed, the limit is"]);
            both!(LayerNormDescriptor::new(&[absurd, absurd]), Error::TooLarge { .. }, ["needed, the limit is"]);
        }
    });
}

#[test]
fn buffers() {
    each_gpu(|gpu| {
        let bench = Bench::new(gpu, BatchNormDescriptor::new(4));
        let tensor = TensorDescriptor::new(&SHAPE);
        let half = TensorDescriptor { dtype: DType::F16, ..tensor };
        let (x, y) = (|x| gpu::Forward { x, ..bench.io() }, |y| gpu::Forward { y, ..bench.io() });
        // 64 elements are 256 bytes of the 1024.
        let late = "y needs 256 bytes from offset 772, its buffer range has 252";
        fails!(bench.train(&tensor, PLAIN, &y(bench.at(1, 772))), Error::BufferTooSmall { .. }, [late]);
        assert!(bench.train(&tensor, PLAIN, &y(bench.at(1, 768))).is_ok());
        let short = BufferBinding { size: NonZero::new(255), ..bench.b(0) };
        fails!(bench.train(&tensor, PLAIN, &x(short)), Error::BufferTooSmall { .. }, ["x needs 256", "has 255"]);
        for offset in [1024, 1 << 40, u64::MAX - 3] {
            let number = offset.to_string();
            let error = bench.train(&tensor, PLAIN, &x(bench.at(0, offset)));
            fails!(error, Error::BufferTooSmall { available: 0, .. }, [number.as_str(), "256"]);
        }
        for offset in [1, 2, 770, u64::MAX] {
            let words = [&format!("offset {offset} of y"), "multiple of 4"];
            fails!(bench.train(&tensor, PLAIN, &y(bench.at(1, offset))), Error::Alignment { .. }, words);
        }
        fails!(bench.eval(&half, PLAIN, &x(bench.at(0, 3))), Error::Alignment { .. }, ["offset 3 of x", "of 2"]);
        // Elements at any multiple of their size, even between the device's alignment and words.
        assert!(bench.eval(&half, PLAIN, &x(bench.at(0, 6))).is_ok());
        assert!(bench.eval(&tensor, PLAIN, &y(bench.at(1, 4))).is_ok());
        let odd = TensorDescriptor { dtype: DType::BF16, ..TensorDescriptor::new(&[1, 4, 127]) };
        assert!(bench.eval(&odd, PLAIN, &x(bench.at(0, 6))).is_ok());
        fails!(bench.eval(&odd, PLAIN, &x(bench.at(0, 10))), Error::BufferTooSmall { .. }, ["1016", "10", "1014"]);
        for usage in [BufferUsages::COPY_DST | BufferUsages::COPY_SRC, BufferUsages::UNIFORM] {
            let wrong = buffer(gpu, usage, ROOM);
            let io = gpu::Forward::new(bench.b(0), wrong.as_entire_buffer_binding());
            let error = bench.train(&tensor, PLAIN, &io);
            fails!(error, Error::BufferUsage { name: "y", .. }, ["STORAGE", "buffer of y"]);
        }
        let sums = buffer(gpu, BufferUsages::STORAGE, ROOM);
        let io = gpu::Backward { dweight: Some(sums.as_entire_buffer_binding()), ..bench.gradients() };
        fails!(bench.backward(PLAIN, &io), Error::BufferUsage { name: "dweight", .. }, ["COPY_DST"]);
        let io = gpu::Backward { dbias: Some(bench.at(4, 1012)), ..bench.gradients() };
        fails!(bench.backward(PLAIN, &io), Error::BufferTooSmall { .. }, ["dbias needs 16", "1012", "has 12"]);
        let io = gpu::Backward { dbias: Some(bench.at(4, 6)), ..bench.gradients() };
        fails!(bench.backward(PLAIN, &io), Error::Alignment { name: "dbias", .. }, ["offset 6", "of 4"]);
        for name in ["x", "dy", "dx"] {
            let mut io = bench.gradients();
            match name {
                "x" => io.x = bench.at(0, 772),
                "dy" => io.dy = bench.at(1, 772),
                _ => io.dx = Some(bench.at(2, 772)),
            }
            fails!(bench.backward(PLAIN, &io), Error::BufferTooSmall { .. }, [name, "772", "252"]);
        }
    });
}

#[test]
fn overlaps() {
    each_gpu(|gpu| {
        let bench = Bench::new(gpu, BatchNormDescriptor::new(4));
        let tensor = TensorDescriptor::new(&SHAPE);
        let over = |offset| gpu::Forward::new(bench.b(0), bench.at(0, offset));
        fails!(bench.train(&tensor, PLAIN, &over(0)), Error::Overlap { .. }, ["y and x", "backward needs x"]);
        assert!(bench.eval(&tensor, PLAIN, &over(0)).is_ok(), "y over x in evaluation");
        for offset in [4, 128, LEN * 4 - 4] {
            fails!(bench.eval(&tensor, PLAIN, &over(offset)), Error::Overlap { .. }, ["y and x", "in part"]);
            fails!(bench.train(&tensor, PLAIN, &over(offset)), Error::Overlap { .. }, ["y and x"]);
        }
        assert!(bench.train(&tensor, PLAIN, &over(LEN * 4)).is_ok(), "neighbours");
        // Two element types have no place in common.
        let mixed = gpu::Forward { y_dtype: Some(DType::F16), ..over(0) };
        fails!(bench.eval(&tensor, PLAIN, &mixed), Error::Overlap { .. }, ["y and x"]);

        let residual = |y| gpu::Forward { residual: Some(bench.b(2)), y, ..bench.io() };
        assert!(bench.train(&tensor, AFTER, &residual(bench.b(2))).is_ok(), "y over the residual");
        let error = bench.train(&tensor, AFTER_RELU, &residual(bench.b(2)));
        fails!(error, Error::Overlap { .. }, ["y and residual", "a place of its own"]);
        assert!(bench.eval(&tensor, AFTER_RELU, &residual(bench.b(2))).is_ok());
        // A frozen layer has a backward pass, too.
        assert!(bench.frozen(&tensor, AFTER, &residual(bench.b(2))).is_ok(), "y over the residual");
        let error = bench.frozen(&tensor, AFTER_RELU, &residual(bench.b(2)));
        fails!(error, Error::Overlap { .. }, ["y and residual", "a place of its own"]);
        fails!(bench.frozen(&tensor, PLAIN, &over(0)), Error::Overlap { .. }, ["y and x", "backward needs x"]);
        fails!(bench.eval(&tensor, AFTER, &residual(bench.at(2, 4))), Error::Overlap { .. }, ["y and residual"]);
        let sum = |sum| gpu::Forward { sum: Some(sum), ..residual(bench.b(1)) };
        fails!(bench.train(&tensor, BEFORE, &sum(bench.b(1))), Error::Overlap { .. }, ["y and sum"]);
        for offset in [4, 128, LEN * 4 - 4] {
            let of_x = sum(bench.at(0, offset));
            fails!(bench.eval(&tensor, BEFORE, &of_x), Error::Overlap { .. }, ["sum and x", "in part"]);
            fails!(bench.train(&tensor, BEFORE, &of_x), Error::Overlap { .. }, ["sum and x", "in part"]);
        }
        assert!(bench.eval(&tensor, BEFORE, &sum(bench.b(0))).is_ok(), "the sum over x");
        // Backward reads the sum, wherever it is, and nothing else.
        for (y, over) in [(1, 0), (1, 2), (0, 2), (2, 0), (0, 4), (2, 4)] {
            let io = gpu::Forward { y: bench.b(y), ..sum(bench.b(over)) };
            assert!(bench.train(&tensor, BEFORE, &io).is_ok(), "y over {y}, the sum over {over}");
            assert!(bench.frozen(&tensor, BEFORE, &io).is_ok(), "y over {y}, the sum over {over}");
        }
        let both = gpu::Forward { y: bench.b(0), ..sum(bench.b(0)) };
        fails!(bench.train(&tensor, BEFORE, &both), Error::Overlap { .. }, ["y and sum"]);

        let dx = |dx| gpu::Backward { dx: Some(dx), ..bench.gradients() };
        fails!(bench.backward(PLAIN, &dx(bench.b(1))), Error::Overlap { .. }, ["dx and dy", "own"]);
        fails!(bench.backward(PLAIN, &dx(bench.at(0, 4))), Error::Overlap { .. }, ["dx and x"]);
        for (second, dweight) in [("x", bench.at(0, 8)), ("dy", bench.b(1)), ("dx", bench.at(2, 252))] {
            let io = gpu::Backward { dweight: Some(dweight), ..bench.gradients() };
            fails!(bench.backward(PLAIN, &io), Error::Overlap { first: "dweight", .. }, [second]);
        }
        let io = gpu::Backward { dbias: Some(bench.at(3, 12)), ..bench.gradients() };
        fails!(bench.backward(PLAIN, &io), Error::Overlap { .. }, ["dbias and dweight"]);
        let io = gpu::Backward { dbias: Some(bench.at(3, 16)), ..bench.gradients() };
        assert!(bench.backward(PLAIN, &io).is_ok(), "neighbours");
        let io = gpu::Backward { dbias: bench.norm.running_var(), ..bench.gradients() };
        fails!(bench.backward(PLAIN, &io), Error::Overlap { first: "dbias", .. }, ["the layer's state"]);

        let wide = Bench::new(gpu, BatchNormDescriptor::new(64));
        let state = wide.norm.weight().unwrap();
        let error = wide.train(&TensorDescriptor::new(&[2, 64]), PLAIN, &gpu::Forward { x: state, ..wide.io() });
        fails!(error, Error::BufferTooSmall { .. } | Error::Overlap { .. }, ["x"]);
        let all = BufferBinding { size: None, ..wide.norm.weight().unwrap() };
        let error = wide.train(&TensorDescriptor::new(&[2, 64]), PLAIN, &gpu::Forward { x: all, ..wide.io() });
        fails!(error, Error::Overlap { .. }, ["x and the layer's state"]);
    });
}

#[test]
fn tensors_that_do_not_belong() {
    each_gpu(|gpu| {
        let bench = Bench::new(gpu, BatchNormDescriptor::new(4));
        let tensor = TensorDescriptor::new(&SHAPE);
        let with = gpu::Forward { residual: Some(bench.b(2)), ..bench.io() };
        fails!(bench.train(&tensor, AFTER, &bench.io()), Error::Missing { name: "residual", .. }, ["residual"]);
        fails!(bench.train(&tensor, BEFORE, &bench.io()), Error::Missing { name: "residual", .. }, ["residual"]);
        fails!(bench.train(&tensor, PLAIN, &with), Error::Unexpected { name: "residual", .. }, ["Residual::None"]);
        fails!(bench.train(&tensor, BEFORE, &with), Error::Missing { name: "sum", .. }, ["x + residual"]);
        let both = gpu::Forward { sum: Some(bench.b(3)), ..with.clone() };
        fails!(bench.train(&tensor, AFTER, &both), Error::Unexpected { name: "sum", .. }, ["Residual::Before"]);

        let io = gpu::Backward { residual: Some(bench.b(5)), ..bench.gradients() };
        fails!(bench.backward(PLAIN, &io), Error::Unexpected { name: "residual", .. }, ["Residual::After"]);
        fails!(bench.backward(AFTER_RELU, &bench.gradients()), Error::Missing { name: "residual", .. }, ["mask"]);
        let io = gpu::Backward { dsum: Some(bench.b(5)), ..bench.gradients() };
        fails!(bench.backward(AFTER, &io), Error::Unexpected { name: "dsum", .. }, ["Residual::Before"]);
        let io = gpu::Backward { dx: None, ..io };
        fails!(bench.backward(BEFORE, &io), Error::Unexpected { name: "dsum", .. }, ["dx"]);
        let io = gpu::Backward { dresidual: Some(bench.b(5)), ..bench.gradients() };
        fails!(bench.backward(PLAIN, &io), Error::Unexpected { name: "dresidual", .. }, ["Residual::After"]);
        fails!(bench.backward(BEFORE, &io), Error::Unexpected { name: "dresidual", .. }, ["dx is also dresidual"]);

        let bare = Bench::new(gpu, BatchNormDescriptor { affine: false, ..BatchNormDescriptor::new(4) });
        fails!(bare.backward(PLAIN, &bare.gradients()), Error::Unexpected { name: "dweight", .. }, ["without it"]);
        let rms = Bench::new(gpu, RmsNormDescriptor::new(&[8]));
        fails!(rms.backward(PLAIN, &rms.gradients()), Error::Unexpected { name: "dbias", .. }, ["without it"]);

        let other = Bench::new(gpu, BatchNormDescriptor::new(4));
        let mut encoder = other.encoder();
        let saved = other.norm.forward_train(&mut encoder, &tensor, PLAIN, &other.io(), Commit::Skip).unwrap();
        drop(encoder);
        let error = bench.nothing_written(|norm, e| norm.backward(e, saved, &bench.gradients()));
        fails!(error, Error::Foreign { .. }, ["another layer"]);
    });
}

/// Vectors of the wrong length, given to both kinds of layer.
#[test]
fn states() {
    let descriptor = || NormDescriptor::from(BatchNormDescriptor::new(4));
    let bare = NormDescriptor::from(BatchNormDescriptor {
        affine: false,
        track_running_stats: false,
        ..BatchNormDescriptor::new(4)
    });
    let good = State::new(&descriptor()).unwrap();
    let running = good.running.clone().unwrap();
    let wrong: [(&str, State); 7] = [
        ("weight has 3", State { weight: Some(vec![1.0; 3]), ..good.clone() }),
        ("weight is missing", State { weight: None, ..good.clone() }),
        ("bias has 5", State { bias: Some(vec![1.0; 5]), ..good.clone() }),
        ("running_mean is missing", State { running: None, ..good.clone() }),
        (
            "running_var has 1",
            State { running: Some(Running { running_var: vec![1.0], ..running.clone() }), ..good.clone() },
        ),
        ("tracked has 6", State { running: Some(Running { tracked: vec![0; 6], ..running.clone() }), ..good.clone() }),
        ("skipped has 0", State { running: Some(Running { skipped: vec![], ..running }), ..good.clone() }),
    ];
    let check = |backend: &host::Backend| {
        for (words, state) in &wrong {
            let words = [*words, if words.ends_with("missing") { "was made with it" } else { "needs 4" }];
            let made = host::Norm::with_state(backend, descriptor(), state.clone());
            fails!(made, Error::Length { .. } | Error::Missing { .. }, words);
            let mut norm = host::Norm::new(backend, descriptor()).unwrap();
            fails!(norm.set_state(state.clone()), Error::Length { .. } | Error::Missing { .. }, words);
            assert_eq!(pollster::block_on(norm.state()).unwrap(), good);
        }
        let empty = State { weight: Some(Vec::new()), ..State::new(&bare).unwrap() };
        for state in [good.clone(), empty] {
            fails!(host::Norm::with_state(backend, bare.clone(), state), Error::Unexpected { .. }, ["weight", "None"]);
        }
    };
    check(&host::Backend::Cpu);
    each_gpu(|gpu| {
        check(&host::Backend::from_device(&gpu.device, &gpu.queue).unwrap());
        let norm = Bench::new(gpu, BatchNormDescriptor::new(4)).norm;
        for bytes in [0, 1, 100, 6 * 64 * 4 - 1] {
            fails!(norm.parse_state(&vec![0; bytes]), Error::Length { expected: 384, .. }, ["384"]);
        }
    });
}

fn own_of(gpu: &Gpu) -> Profile {
    Profile::new(gpu.info.device_type, &gpu.device.limits())
}

/// Sizes that make no sense are no endless loop and no division by 0, and limits that are too low are told first.
#[test]
fn profiles() {
    let own = Profile::GPU;
    let wrong = [
        ("workgroup", Profile { workgroup: 0, ..own }),
        ("workgroup", Profile { workgroup: 100, ..own }),
        ("max_lanes", Profile { max_lanes: 512, ..own }),
        ("target_lanes", Profile { target_lanes: 0, ..own }),
        ("max_units", Profile { max_units: 0, ..own }),
        ("max_units_beside_columns", Profile { max_units_beside_columns: 0, ..own }),
        ("offset_alignment", Profile { offset_alignment: 0, ..own }),
        ("max_workgroups", Profile { max_workgroups: 0, ..own }),
        ("abreast", Profile { abreast: 2, ..own }),
        // Partial results would never become fewer.
        (
            "workgroup",
            Profile { workgroup: 1, min_lanes: 1, min_element_lanes: 1, max_lanes: 1, target_lanes: 1, ..own },
        ),
    ];
    let tensor = TensorDescriptor::new(&SHAPE);
    let norm = BatchNormDescriptor::new(4).into();
    let problem = Problem::new(&norm, &tensor, Statistics::Batch, PLAIN, Op::Forward).unwrap();
    for (name, profile) in &wrong {
        fails!(Plan::new(problem, profile), Error::Parameter { .. }, ["Profile::", name]);
    }
    each_gpu(|gpu| {
        for (name, profile) in wrong {
            fails!(
                gpu::Context::with_profile(&gpu.device, profile, None),
                Error::Parameter { .. },
                ["Profile::", name]
            );
        }
        let alignment = gpu.device.limits().min_storage_buffer_offset_alignment;
        let finer = Profile { offset_alignment: u64::from(alignment) / 2, ..own_of(gpu) };
        let error = gpu::Context::with_profile(&gpu.device, finer, None);
        fails!(error, Error::Parameter { .. }, ["Profile::offset_alignment", "a multiple of", "offset_alignment"]);
        let coarser = Profile { offset_alignment: u64::from(alignment) * 2, ..own_of(gpu) };
        assert!(gpu::Context::with_profile(&gpu.device, coarser, None).is_ok());
        let required_limits = wgpu::Limits::downlevel_webgl2_defaults();
        let small = wgpu::DeviceDescriptor { required_limits, ..Default::default() };
        let (device, _) = pollster::block_on(gpu.adapter.request_device(&small)).unwrap();
        fails!(
            gpu::Context::new(&device),
            Error::Limit { .. },
            ["max_storage_buffers_per_shader_stage", "required_limits"]
        );
    });
}

/// A device that is gone is an error to the calls that follow, not a panic.
#[test]
fn lost_devices() {
    each_gpu(|gpu| {
        let backend = pollster::block_on(host::Backend::open(&gpu.adapter)).unwrap();
        let host::Backend::Gpu { context, .. } = &backend else { unreachable!() };
        let mut norm = host::Norm::new(&backend, BatchNormDescriptor::new(4)).unwrap();
        let (tensor, x) = (TensorDescriptor::new(&SHAPE), [0f32; 64]);
        let trained = norm.forward_train::<f32, f32>(&tensor, PLAIN, &x, None, Commit::Skip);
        let (_, saved) = pollster::block_on(trained).unwrap();
        context.device().destroy();
        fails!(pollster::block_on(norm.state()), Error::Readback(_), ["lost or out of memory"]);
        fails!(pollster::block_on(norm.statistics(&saved)), Error::Readback(_), ["lost or out of memory"]);
        let train = norm.forward_train::<f32, f32>(&tensor, PLAIN, &x, None, Commit::Skip);
        fails!(pollster::block_on(train), Error::NewBuffer(_), ["lost or out of memory"]);
        fails!(host::Norm::new(&backend, BatchNormDescriptor::new(4)), Error::NewBuffer(_), ["lost or out of memory"]);
        let moments = [Moments::default()];
        fails!(gpu::DeviceSums::from_slice(context, &moments), Error::NewBuffer(_), ["lost or out of memory"]);
    });
}

/// Slices, on the CPU and on every adapter.
#[test]
fn slices() {
    use half::f16;
    async fn check(backend: &host::Backend) {
        let mut norm = host::Norm::new(backend, BatchNormDescriptor::new(4)).unwrap();
        let state = norm.state().await.unwrap();
        let (tensor, x) = (TensorDescriptor::new(&SHAPE), vec![1.0f32; 64]);
        let half = TensorDescriptor { dtype: DType::F16, ..tensor };
        macro_rules! train {
            ($tensor:expr, $fusion:expr, $x:expr, $residual:expr) => {
                norm.forward_train::<_, f32>(&$tensor, $fusion, $x, $residual, Commit::Update).await
            };
        }
        let (short, long, halves) = (vec![0f32; 63], vec![0f32; 65], vec![f16::ONE; 64]);
        fails!(train!(tensor, PLAIN, &short, None), Error::Length { expected: 64, actual: 63, .. }, ["x has 63", "64"]);
        fails!(train!(tensor, PLAIN, &long, None), Error::Length { .. }, ["65", "64"]);
        fails!(train!(tensor, AFTER, &x, Some(&short[..])), Error::Length { .. }, ["residual has 63"]);
        fails!(train!(tensor, AFTER, &x, None), Error::Missing { name: "residual", .. }, ["residual"]);
        fails!(train!(tensor, PLAIN, &x, Some(&x[..])), Error::Unexpected { name: "residual", .. }, ["residual"]);
        fails!(train!(half, PLAIN, &x, None), Error::DType { .. }, ["x is F32", "F16"]);
        fails!(train!(tensor, PLAIN, &halves, None), Error::DType { .. }, ["x is F16", "F32"]);
        let none: &[f32] = &[];
        fails!(train!(TensorDescriptor::new(&[0, 4]), PLAIN, none, None), Error::Empty { .. }, ["N is 0"]);
        fails!(train!(TensorDescriptor::new(&[2, 4, 0]), PLAIN, none, None), Error::Empty { .. }, ["axis 2 is 0"]);
        fails!(train!(TensorDescriptor::new(&[]), PLAIN, &x[..1], None), Error::Rank { .. }, ["has 0"]);
        fails!(train!(TensorDescriptor::new(&[]), PLAIN, none, None), Error::Length { .. }, ["x has 0"]);
        fails!(train!(TensorDescriptor::new(&[16, 4, 2]), PLAIN, &x, None), Error::Length { .. }, ["128"]);
        fails!(train!(TensorDescriptor::new(&[8, 8]), PLAIN, &x, None), Error::Axis { .. }, ["is 8", "for 4"]);
        fails!(train!(TensorDescriptor::new(&[64]), PLAIN, &x, None), Error::Rank { .. }, ["[64]"]);
        fails!(train!(TensorDescriptor::new(&[1, 4]), PLAIN, &x[..4], None), Error::TooFewValues { .. }, ["[1, 4]"]);
        for n in [1 << 31, 1 << 40, usize::MAX / 4, usize::MAX] {
            for shape in [&[n, 4][..], &[n, n], &[n, 4, n], &[4, 4, n, n, n]] {
                assert!(train!(TensorDescriptor::new(shape), PLAIN, &x, None).is_err());
                assert!(train!(TensorDescriptor::new(shape), PLAIN, none, None).is_err());
            }
        }

        assert_eq!(norm.state().await.unwrap(), state, "a call that failed has committed");
        let all = Gradients { dx: true, dresidual: false, affine: true };
        macro_rules! backward {
            ($forward:expr, $x:expr, $residual:expr, $dy:expr, $dsum:expr, $wanted:expr) => {{
                let residual = ($forward.residual != Residual::None).then_some(&x[..]);
                let saved = train!(tensor, $forward, &x, residual).unwrap().1;
                {
                    let io = host::Backward { x: $x, residual: $residual, dy: $dy, dsum: $dsum };
                    norm.backward(saved, io, $wanted).await
                }
            }};
        }
        let result = backward!(PLAIN, &short, None, &x, None, all);
        fails!(result, Error::Length { name: "x", .. }, ["x has 63", "64"]);
        let result = backward!(PLAIN, &x, None, &long, None, all);
        fails!(result, Error::Length { name: "dy", .. }, ["dy has 65", "64"]);
        let result = backward!(PLAIN, &x[..12], None, &x[..12], None, all);
        fails!(result, Error::Length { name: "x", expected: 64, actual: 12 }, ["x has 12", "64"]);
        let result = backward!(PLAIN, &x, None, &halves, None, all);
        fails!(result, Error::DType { name: "dy", .. }, ["dy is F16", "F32"]);
        let result = backward!(PLAIN, &halves, None, &x, None, all);
        fails!(result, Error::DType { name: "x", .. }, ["x is F16", "F32"]);
        let result = backward!(PLAIN, &x, Some(&x[..]), &x, None, all);
        fails!(result, Error::Unexpected { name: "residual", .. }, ["residual"]);
        let result = backward!(PLAIN, &x, None, &x, Some(&x[..]), all);
        fails!(result, Error::Unexpected { name: "dsum", .. }, ["dsum"]);
        let result = backward!(AFTER_RELU, &x, None, &x, None, all);
        fails!(result, Error::Missing { name: "residual", .. }, ["mask"]);
        let dresidual = Gradients { dresidual: true, ..all };
        let result = backward!(PLAIN, &x, None, &x, None, dresidual);
        fails!(result, Error::Unexpected { name: "dresidual", .. }, ["dresidual"]);
        let result = backward!(BEFORE, &x, None, &x, None, dresidual);
        fails!(result, Error::Unexpected { name: "dresidual", .. }, ["dresidual"]);

        let untracked = BatchNormDescriptor { track_running_stats: false, ..BatchNormDescriptor::new(4) };
        let untracked = host::Norm::new(backend, untracked).unwrap();
        let result = untracked.forward_frozen::<f32, f32>(&tensor, PLAIN, &x, None).await;
        fails!(result, Error::Missing { .. }, ["running statistics"]);

        let mut other = host::Norm::new(backend, BatchNormDescriptor::new(4)).unwrap();
        let passed = other.forward_train::<f32, f32>(&tensor, PLAIN, &x, None, Commit::Skip).await;
        let result = norm.backward(passed.unwrap().1, host::Backward::new(&x, &x), all).await;
        fails!(result, Error::Foreign { .. }, ["another layer"]);
        let mut other = host::Norm::new(&host::Backend::Cpu, BatchNormDescriptor::new(4)).unwrap();
        let passed = other.forward_train::<f32, f32>(&tensor, PLAIN, &x, None, Commit::Skip).await;
        let result = norm.backward(passed.unwrap().1, host::Backward::new(&x, &x), all).await;
        fails!(result, Error::Foreign { .. }, ["another"]);
    }
    pollster::block_on(check(&host::Backend::Cpu));
    each_gpu(|gpu| pollster::block_on(check(&host::Backend::from_device(&gpu.device, &gpu.queue).unwrap())));
}
