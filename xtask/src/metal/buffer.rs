//! Buffers of the device.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use wgpu::custom::*;
use wgpu::{BufferAddress, MapMode, MapRangeError, WriteOnly};

/// A buffer.
#[derive(Clone, Debug)]
pub struct Buffer(Arc<Mutex<Vec<u8>>>);

impl Buffer {
    /// What wgpu's buffer gives as its own kind.
    pub fn of(custom: Option<&Buffer>) -> Buffer {
        custom.expect("a buffer of this device").clone()
    }

    pub fn new(size: u64) -> Buffer {
        Buffer(Arc::new(Mutex::new(vec![0; size as usize])))
    }

    pub fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        lock(&self.0)
    }

    /// Whether both are one buffer.
    pub fn is(&self, other: &Buffer) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub fn write(&self, offset: u64, data: &[u8]) {
        self.bytes()[offset as usize..][..data.len()].copy_from_slice(data);
    }
}

impl BufferInterface for Buffer {
    fn map_async(&self, _: MapMode, _: Range<BufferAddress>, callback: BufferMapCallback) {
        // Whatever was submitted has run.
        callback(Ok(()));
    }

    fn get_mapped_range(&self, range: Range<BufferAddress>) -> Result<DispatchBufferMappedRange, MapRangeError> {
        let copy = self.bytes()[range.start as usize..range.end as usize].to_vec();
        Ok(DispatchBufferMappedRange::custom(Mapped {
            buffer: self.clone(),
            offset: range.start,
            copy,
            written: false,
        }))
    }

    fn unmap(&self) {}

    fn destroy(&self) {}
}

/// What a mutex has, also if a thread panicked with it.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A part of a buffer that is mapped.
#[derive(Debug)]
struct Mapped {
    buffer: Buffer,
    offset: u64,
    copy: Vec<u8>,
    written: bool,
}

impl BufferMappedRangeInterface for Mapped {
    fn len(&self) -> usize {
        self.copy.len()
    }

    unsafe fn read_slice(&self) -> &[u8] {
        &self.copy
    }

    unsafe fn write_slice(&mut self) -> WriteOnly<'_, [u8]> {
        self.written = true;
        WriteOnly::from_mut(&mut self.copy)
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        if self.written {
            self.buffer.write(self.offset, &self.copy);
        }
    }
}
