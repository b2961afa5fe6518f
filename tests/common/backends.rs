//! A backend on every adapter, made once so that tests share its pipelines.
#![allow(
    dead_code,
    unused_imports,
    unused_macros,
    reason = "each of the programs that share this file uses a part of it"
)]

use super::adapters::{Gpu, all};
use std::sync::OnceLock;
use wgpu_norm::{Profile, host::Backend};

/// Every adapter that is here. Hold [`Gpu::turn`] while using one.
pub fn gpus() -> impl Iterator<Item = (&'static Gpu, &'static Backend)> {
    static BACKENDS: OnceLock<Vec<Backend>> = OnceLock::new();
    let backends = BACKENDS.get_or_init(|| {
        let open = |gpu: &Gpu| Backend::from_device(&gpu.device, &gpu.queue).expect("the adapter meets the limits");
        all().iter().map(open).collect()
    });
    all().iter().zip(backends)
}

/// Checks the CPU and every adapter.
pub fn everywhere(check: impl Fn(&str, &Backend)) {
    check("cpu", &Backend::Cpu);
    for (gpu, backend) in gpus() {
        let _turn = gpu.turn();
        check(&gpu.name, backend);
    }
}

/// The sizes of a real GPU, with the limits of this device: several lanes share a row, and no leaf has parts.
pub fn of_a_gpu(own: Profile) -> Profile {
    with_limits_of(own, Profile::GPU)
}

pub fn with_limits_of(own: Profile, sizes: Profile) -> Profile {
    let Profile { max_binding_size, offset_alignment, max_workgroups, .. } = own;
    Profile { max_binding_size, offset_alignment, max_workgroups, ..sizes }
}

/// One test a table and implementation, by the program's `check`; an adapter that is not here is printed as skipped by
/// `adapters`.
macro_rules! implementations {
    ($($table:ident),* $(,)?) => {
        mod cpu {
            $(#[test]
            fn $table() {
                super::check("cpu", &wgpu_norm::host::Backend::Cpu, &super::$table());
            })*
        }
        mod gpu {
            $(#[test]
            fn $table() {
                for (gpu, backend) in super::backends::gpus() {
                    let _turn = gpu.turn();
                    super::check(&gpu.name, backend, &super::$table());
                }
            })*
        }
    };
}
pub(crate) use implementations;
