//! Chiron guest interface, version 1, for Zig: see spec/guest.wit for what every call does.
//! A guest imports it as `@import("chiron")` and exports `configure` and `create`.

pub const Schema = extern struct {
    version: u32 = 0,
    rows: u32 = 0,
    rank: u32 = 0,
    shape: [3]u32 = .{ 0, 0, 0 },
    classes: u32 = 0,
    reserved: u32 = 0,
};
pub const Header = extern struct { epochs: u32, batch: u32, workers: u32, parameters: u32, slot_ms: u32, create_ms: u32 };
pub const Summary = extern struct { mean: f32 = 0, deviation: f32 = 0, minimum: f32 = 0, maximum: f32 = 0 };
pub const sgd = 0;
pub const adamw = 1;
pub const constant = 0;
pub const cosine = 1;
pub const Plan = extern struct {
    version: u32 = 1,
    optimiser: u32,
    learning_rate: f32,
    momentum: f32 = 0,
    weight_decay: f32,
    schedule: u32,
    warmup_steps: u32,
    reserved: u32 = 0,
};
pub const Statistic = enum(u32) { all_values, column, rows_per_target, row_counts };

/// The host's functions as they are; a negative result is a refusal.
pub const host = struct {
    pub extern "chiron" fn schema(to: *Schema, capacity_bytes: u32) i32;
    pub extern "chiron" fn random(to: [*]u8, length_bytes: u32) i32;
    pub extern "chiron" fn header(header: *const Header, length_bytes: u32) i32;
    pub extern "chiron" fn log(text: [*]const u8, length_bytes: u32) i32;
    pub extern "chiron" fn statistics(kind: u32, index: u32, to: *anyopaque, capacity_bytes: u32) i32;
    pub extern "chiron" fn batch(first: u32, count: u32, to: [*]f32, capacity_bytes: u32) i32;
    pub extern "chiron" fn targets(first: u32, count: u32, to: [*]i32, capacity_bytes: u32) i32;
    pub extern "chiron" fn graph(bytes: [*]const u8, length_bytes: u32) i32;
    pub extern "chiron" fn plan(plan: *const Plan, length_bytes: u32) i32;
};

pub fn log(text: []const u8) void {
    _ = host.log(text.ptr, text.len);
}

/// Fill a variable, or an array of them, with statistics; false when the host refuses.
pub fn statistics(kind: Statistic, index: u32, to: anytype) bool {
    return host.statistics(@intFromEnum(kind), index, to, @sizeOf(@TypeOf(to.*))) >= 0;
}

/// Pseudo-random numbers, drawn from the host a block at a time.
pub const Random = struct {
    block: [2048]u16 = undefined,
    used: u32 = 2048,

    /// One number of mean 0 and variance 1, nearly normal: the sum of four uniform ones (Irwin-Hall).
    pub fn gaussian(random: *Random) f32 {
        if (random.used + 4 > random.block.len) {
            _ = host.random(@ptrCast(&random.block), @sizeOf(@TypeOf(random.block)));
            random.used = 0;
        }
        var sum: f32 = 0;
        for (0..4) |_| {
            sum += @floatFromInt(random.block[random.used]);
            random.used += 1;
        }
        const mean: f32 = 4 * 65535.0 / 2.0;
        const deviation: f32 = 65536 * @as(f32, 0.57735027); // sqrt(4 / 12)
        return (sum - mean) * (1 / deviation);
    }
};

/// Writes an ONNX model (protobuf, IR version 8, opset 17) into a buffer that is large enough.
pub const Onnx = struct {
    bytes: []u8,
    used: u32 = 0,
    begun: [8]u32 = undefined,
    depth: u32 = 0,

    pub fn begin(buffer: []u8) Onnx {
        var w = Onnx{ .bytes = buffer };
        w.number(1, 8);
        w.text(2, "chiron");
        w.open(8);
        w.number(2, 17);
        w.close();
        w.open(7);
        w.text(2, "guest");
        return w;
    }

    /// The finished model.
    pub fn end(w: *Onnx) []const u8 {
        w.close();
        return w.bytes[0..w.used];
    }

    pub fn input(w: *Onnx, name: []const u8, shape: []const u32) void {
        w.value(11, name, shape);
    }

    pub fn output(w: *Onnx, name: []const u8, shape: []const u32) void {
        w.value(12, name, shape);
    }

    /// Begin a float32 initializer; exactly as many calls of `float` as it has values, then `close`.
    pub fn floats(w: *Onnx, name: []const u8, dims: []const u32) void {
        var count: u32 = 1;
        w.open(5);
        for (dims) |dim| {
            w.number(1, dim);
            count *= dim;
        }
        w.number(2, 1);
        w.text(8, name);
        w.varint(9 << 3 | 2);
        w.varint(4 * count);
    }

    pub fn float(w: *Onnx, number_: f32) void {
        const bits: u32 = @bitCast(number_);
        inline for (0..4) |i| w.byte(@truncate(bits >> 8 * i));
    }

    /// Begin a node with one output; attributes may follow, then `close`.
    pub fn node(w: *Onnx, kind: []const u8, name: []const u8, inputs: []const []const u8) void {
        w.open(1);
        for (inputs) |each| w.text(1, each);
        w.text(2, name);
        w.text(3, name);
        w.text(4, kind);
    }

    pub fn attributeInt(w: *Onnx, name: []const u8, value_: u64) void {
        w.open(5);
        w.text(1, name);
        w.number(3, value_);
        w.number(20, 2);
        w.close();
    }

    /// End an initializer or node. The length goes before the body, which moves up to make room for it.
    pub fn close(w: *Onnx) void {
        w.depth -= 1;
        const begun = w.begun[w.depth];
        const length = w.used - begun;
        w.varint(length);
        const shift = w.used - begun - length;
        var i = length;
        while (i > 0) : (i -= 1) w.bytes[begun + shift + i - 1] = w.bytes[begun + i - 1];
        w.used = begun;
        w.varint(length);
        w.used += length;
    }

    fn open(w: *Onnx, field: u32) void {
        w.varint(field << 3 | 2);
        w.begun[w.depth] = w.used;
        w.depth += 1;
    }

    fn value(w: *Onnx, field: u32, name: []const u8, shape: []const u32) void {
        w.open(field);
        w.text(1, name);
        w.open(2);
        w.open(1);
        w.number(1, 1);
        w.open(2);
        w.open(1);
        w.text(2, "N");
        w.close();
        for (shape) |dim| {
            w.open(1);
            w.number(1, dim);
            w.close();
        }
        for (0..4) |_| w.close();
    }

    fn text(w: *Onnx, field: u32, words: []const u8) void {
        w.varint(field << 3 | 2);
        w.varint(words.len);
        for (words) |each| w.byte(each);
    }

    fn number(w: *Onnx, field: u32, value_: u64) void {
        w.varint(field << 3);
        w.varint(value_);
    }

    fn varint(w: *Onnx, value_: u64) void {
        var rest = value_;
        while (rest >= 0x80) : (rest >>= 7) w.byte(@truncate(rest | 0x80));
        w.byte(@truncate(rest));
    }

    fn byte(w: *Onnx, value_: u8) void {
        w.bytes[w.used] = value_; // beyond the end it traps
        w.used += 1;
    }
};
