//! Chiron guest interface, version 1, for Rust: see spec/guest.wit for what every call does.

use std::alloc::{GlobalAlloc, Layout};

/// Hands out the memory behind the stack and statics once: a guest's memory cannot grow, and Rust's own
/// allocator uses nothing but what growing brings. Each export starts with fresh memory.
struct Arena;

static mut USED: usize = 0;

extern "C" {
    static __heap_base: u8;
}

unsafe impl GlobalAlloc for Arena {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let base = &__heap_base as *const u8 as usize;
        let begin = (base + USED + layout.align() - 1) & !(layout.align() - 1);
        if begin + layout.size() > core::arch::wasm32::memory_size(0) << 16 {
            return core::ptr::null_mut();
        }
        USED = begin + layout.size() - base;
        begin as *mut u8
    }

    unsafe fn dealloc(&self, _pointer: *mut u8, _layout: Layout) {}
}

#[global_allocator]
static ARENA: Arena = Arena;

/// The host's functions as they are; a negative result is a refusal.
pub mod host {
    #[link(wasm_import_module = "chiron")]
    extern "C" {
        pub fn schema(to: *mut u8, capacity_bytes: u32) -> i32;
        pub fn random(to: *mut u8, length_bytes: u32) -> i32;
        pub fn header(header: *const u8, length_bytes: u32) -> i32;
        pub fn log(text: *const u8, length_bytes: u32) -> i32;
        pub fn statistics(kind: u32, index: u32, to: *mut u8, capacity_bytes: u32) -> i32;
        pub fn batch(first: u32, count: u32, to: *mut u8, capacity_bytes: u32) -> i32;
        pub fn targets(first: u32, count: u32, to: *mut u8, capacity_bytes: u32) -> i32;
        pub fn graph(bytes: *const u8, length_bytes: u32) -> i32;
        pub fn plan(plan: *const u8, length_bytes: u32) -> i32;
    }
}

#[repr(C)]
#[derive(Default)]
pub struct Schema {
    pub version: u32,
    pub rows: u32,
    pub rank: u32,
    pub shape: [u32; 3],
    pub classes: u32,
    pub reserved: u32,
}

#[repr(C)]
pub struct Header {
    pub epochs: u32,
    pub batch: u32,
    pub workers: u32,
    pub parameters: u32,
    pub slot_ms: u32,
    pub create_ms: u32,
}

pub const SGD: u32 = 0;
pub const ADAMW: u32 = 1;
pub const CONSTANT: u32 = 0;
pub const COSINE: u32 = 1;

#[repr(C)]
#[derive(Default)]
pub struct Plan {
    pub version: u32, // 1
    pub optimiser: u32,
    pub learning_rate: f32,
    pub momentum: f32,
    pub weight_decay: f32,
    pub schedule: u32,
    pub warmup_steps: u32,
    pub reserved: u32,
}

pub const ALL_VALUES: u32 = 0; // mean, standard deviation, minimum, maximum
pub const COLUMN: u32 = 1;
pub const ROWS_PER_TARGET: u32 = 2;
pub const ROW_COUNTS: u32 = 3;

pub fn schema() -> Option<Schema> {
    let mut schema = Schema::default();
    let status = unsafe { host::schema(&mut schema as *mut Schema as *mut u8, 32) };
    (status >= 0 && schema.version == 1).then(|| schema)
}

pub fn log(text: &str) {
    unsafe { host::log(text.as_ptr(), text.len() as u32) };
}

/// Declare the header; the host's status.
pub fn header(header: &Header) -> i32 {
    unsafe { host::header(header as *const Header as *const u8, 24) }
}

/// Emit the plan; the host's status.
pub fn plan(plan: &Plan) -> i32 {
    unsafe { host::plan(plan as *const Plan as *const u8, 32) }
}

/// Fill numbers with statistics; None when the host refuses.
pub fn statistics(kind: u32, index: u32, to: &mut [f32]) -> Option<()> {
    let bytes = 4 * to.len() as u32;
    (unsafe { host::statistics(kind, index, to.as_mut_ptr() as *mut u8, bytes) } >= 0).then(|| ())
}

/// Pseudo-random numbers, drawn from the host a block at a time.
pub struct Random {
    block: [u16; 2048],
    used: usize,
}

impl Random {
    pub fn new() -> Random {
        Random { block: [0; 2048], used: 2048 }
    }

    /// One number of mean 0 and variance 1, nearly normal: the sum of four uniform ones (Irwin-Hall).
    pub fn gaussian(&mut self) -> f32 {
        if self.used + 4 > self.block.len() {
            unsafe { host::random(self.block.as_mut_ptr() as *mut u8, 4096) };
            self.used = 0;
        }
        let mut sum = 0.0f32;
        for _ in 0..4 {
            sum += self.block[self.used] as f32;
            self.used += 1;
        }
        let (mean, deviation) = (4.0 * 65535.0f32 / 2.0, 65536.0 * 0.57735027f32); // sqrt(4 / 12)
        (sum - mean) * (1.0 / deviation)
    }
}

/// Writes an ONNX model (protobuf, IR version 8, opset 17).
pub struct Onnx {
    bytes: Vec<u8>,
    begun: Vec<usize>,
}

impl Onnx {
    /// Begin a model of at most so many bytes: the memory does not grow, so it is taken once.
    pub fn begin(capacity_bytes: usize) -> Onnx {
        let mut w = Onnx { bytes: Vec::with_capacity(capacity_bytes), begun: Vec::with_capacity(8) };
        w.number(1, 8);
        w.text(2, "chiron");
        w.open(8);
        w.number(2, 17);
        w.close();
        w.open(7);
        w.text(2, "guest");
        w
    }

    /// Emit the finished model; the host's status.
    pub fn emit(mut self) -> i32 {
        self.close();
        unsafe { host::graph(self.bytes.as_ptr(), self.bytes.len() as u32) }
    }

    pub fn input(&mut self, name: &str, shape: &[u32]) {
        self.value(11, name, shape);
    }

    pub fn output(&mut self, name: &str, shape: &[u32]) {
        self.value(12, name, shape);
    }

    /// Write a float32 initializer; as many values as its dimensions say must come.
    pub fn floats(&mut self, name: &str, dims: &[u32], values: impl Iterator<Item = f32>) {
        self.open(5);
        dims.iter().for_each(|dim| self.number(1, *dim));
        self.number(2, 1);
        self.text(8, name);
        self.varint(9 << 3 | 2);
        self.varint(4 * dims.iter().product::<u32>());
        values.for_each(|value| self.bytes.extend_from_slice(&value.to_le_bytes()));
        self.close();
    }

    /// Write a node with one output and integer attributes.
    pub fn node(&mut self, kind: &str, output: &str, inputs: &[&str], attributes: &[(&str, u32)]) {
        self.open(1);
        inputs.iter().for_each(|input| self.text(1, input));
        self.text(2, output);
        self.text(3, output);
        self.text(4, kind);
        for (name, value) in attributes {
            self.open(5);
            self.text(1, name);
            self.number(3, *value);
            self.number(20, 2);
            self.close();
        }
        self.close();
    }

    fn value(&mut self, field: u32, name: &str, shape: &[u32]) {
        self.open(field);
        self.text(1, name);
        self.open(2);
        self.open(1);
        self.number(1, 1);
        self.open(2);
        self.open(1);
        self.text(2, "N");
        self.close();
        for dim in shape {
            self.open(1);
            self.number(1, *dim);
            self.close();
        }
        (0..4).for_each(|_| self.close());
    }

    fn open(&mut self, field: u32) {
        self.varint(field << 3 | 2);
        self.begun.push(self.bytes.len());
    }

    /// The length goes before the body, which moves up to make room for it.
    fn close(&mut self) {
        let begun = self.begun.pop().unwrap();
        let end = self.bytes.len();
        self.varint((end - begun) as u32);
        let length_bytes = self.bytes.len() - end;
        self.bytes[begun..].rotate_right(length_bytes);
    }

    fn text(&mut self, field: u32, text: &str) {
        self.varint(field << 3 | 2);
        self.varint(text.len() as u32);
        self.bytes.extend_from_slice(text.as_bytes());
    }

    fn number(&mut self, field: u32, value: u32) {
        self.varint(field << 3);
        self.varint(value);
    }

    fn varint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }
}
