//! Tensors on a GPU: sizes, alignment, overlaps, and those of others.

use super::bench::*;
use std::num::NonZero;
use wgpu::{BufferBinding, BufferUsages, CommandEncoder};
use wgpu_norm::{
    BatchNormDescriptor, Commit, DType, Error, ForwardPitches, Pitch, RmsNormDescriptor, TensorDescriptor, gpu,
};

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
        for (buffer, dx_over) in [(0, "dx and x"), (1, "dx and dy")] {
            assert!(bench.backward(PLAIN, &dx(bench.b(buffer))).is_ok(), "{dx_over}");
            for offset in [4, 128, LEN * 4 - 4] {
                let error = bench.backward(PLAIN, &dx(bench.at(buffer, offset)));
                fails!(error, Error::Overlap { .. }, [dx_over, "in part"]);
            }
            assert!(bench.backward(PLAIN, &dx(bench.at(buffer, LEN * 4))).is_ok(), "neighbours");
        }
        let second = |second| gpu::Backward { dresidual: Some(second), ..bench.gradients() };
        assert!(bench.backward(AFTER, &second(bench.b(1))).is_ok(), "dresidual over dy");
        fails!(bench.backward(AFTER, &second(bench.b(2))), Error::Overlap { .. }, ["dx and dresidual"]);
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

/// Heads of a fused query, key and value are beside each other, unless their slices do overlap.
#[test]
fn slices_of_samples() {
    each_gpu(|gpu| {
        // Two of the four heads of eight in each of three tokens.
        let bench = Bench::new(gpu, RmsNormDescriptor::new(&[8]));
        let tensor = TensorDescriptor::new(&[3, 2, 8]);
        let heads = Pitch { sample: Some(32), row: None };
        let io = |y: u64| gpu::Forward {
            pitches: ForwardPitches { x: heads, y: heads, ..Default::default() },
            ..gpu::Forward::new(bench.b(0), bench.at(0, 4 * y))
        };
        for y in [0, 16] {
            assert!(bench.eval(&tensor, PLAIN, &io(y)).is_ok(), "y {y} elements on");
        }
        for y in [4, 8, 15, 17, 24, 31] {
            fails!(bench.eval(&tensor, PLAIN, &io(y)), Error::Overlap { .. }, ["y and x", "in part"]);
        }
        // Every third row of eight.
        let rows = Pitch { row: Some(24), sample: None };
        let io = |y: u64| gpu::Forward {
            pitches: ForwardPitches { x: rows, y: rows, ..Default::default() },
            ..gpu::Forward::new(bench.b(0), bench.at(0, 4 * y))
        };
        for y in [0, 8, 16] {
            assert!(bench.eval(&tensor, PLAIN, &io(y)).is_ok(), "y {y} elements on");
        }
        for y in [4, 7, 17, 20] {
            fails!(bench.eval(&tensor, PLAIN, &io(y)), Error::Overlap { .. }, ["y and x", "in part"]);
        }
    });
}

/// What backward reads is where the forward pass read it, unless the caller says that it has moved.
#[test]
fn tensors_that_have_moved() {
    each_gpu(|gpu| {
        let bench = Bench::new(gpu, BatchNormDescriptor::new(4));
        let x = |x| gpu::Backward { x, ..bench.gradients() };
        let exchanged = gpu::Backward { dy: bench.b(0), ..x(bench.b(1)) };
        fails!(bench.backward(PLAIN, &exchanged), Error::Moved { name: "x" }, ["x is not where", "dy", "moved"]);
        fails!(bench.backward(PLAIN, &x(bench.b(5))), Error::Moved { name: "x" }, []);
        fails!(bench.backward(PLAIN, &x(bench.at(0, LEN * 4))), Error::Moved { name: "x" }, []);
        let mut pitched = bench.gradients();
        pitched.pitches.x.sample = Some(LEN);
        fails!(bench.backward(PLAIN, &pitched), Error::Moved { name: "x" }, []);
        for elsewhere in [bench.b(5), bench.at(0, LEN * 4)] {
            assert!(bench.backward(PLAIN, &gpu::Backward { moved: true, ..x(elsewhere) }).is_ok());
        }
        fails!(bench.backward(BEFORE, &x(bench.b(0))), Error::Moved { name: "x" }, []);
        let sum = gpu::Backward { dweight: None, ..x(bench.b(3)) };
        assert!(bench.backward(BEFORE, &sum).is_ok(), "the sum");
        let residual = |residual| gpu::Backward { residual: Some(residual), dx: Some(bench.b(5)), ..bench.gradients() };
        fails!(
            bench.backward(AFTER_RELU, &residual(bench.b(1))),
            Error::Moved { name: "residual" },
            ["residual is not"]
        );
        assert!(bench.backward(AFTER_RELU, &residual(bench.b(2))).is_ok());
        // It is not read.
        assert!(bench.backward(AFTER, &residual(bench.b(1))).is_ok());
        let moved = gpu::Backward { moved: true, ..residual(bench.b(1)) };
        assert!(bench.backward(AFTER_RELU, &moved).is_ok());
    });
}

/// Errors of a layer with a label tell which it is.
#[test]
fn labels() {
    each_gpu(|gpu| {
        let mut bench = Bench::new(gpu, BatchNormDescriptor::new(4));
        bench.norm = bench.norm.with_label("stage 1, norm 2");
        let tensor = TensorDescriptor::new(&SHAPE);
        let short = gpu::Forward { x: bench.at(0, 1020), ..bench.io() };
        let backward = gpu::Backward { dx: Some(bench.at(2, 1020)), ..bench.gradients() };
        let state = bench.norm.parse_state(&[0; 4]).map(drop);
        let moments = |e: &mut CommandEncoder| {
            bench.norm.local_moments(e, &tensor, PLAIN, bench.at(0, 1020), None, &Default::default()).map(drop)
        };
        let calls = [
            bench.train(&tensor, PLAIN, &short).map(drop),
            bench.frozen(&tensor, PLAIN, &short).map(drop),
            bench.eval(&tensor, PLAIN, &short),
            bench.backward(PLAIN, &backward),
            bench.nothing_written(|_, encoder| moments(encoder)),
            state,
        ];
        for result in calls {
            let error = result.unwrap_err();
            assert!(error.to_string().starts_with("stage 1, norm 2: "), "{error}");
            assert!(matches!(error.kind(), Error::BufferTooSmall { .. } | Error::Length { .. }), "{error:?}");
        }
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
