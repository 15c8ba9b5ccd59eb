//! A perceptron with one hidden layer for any rows of numbers: tables, or small images such as 8x8 digits.
//!
//! configure() sees the shape of the data and says publicly how long training takes. create() sees the data
//! and chooses what stays secret: the hidden layer's width, the learning rate, the weight decay.
const chiron = @import("chiron");

const max_classes = 256;
const min_width = 16;
const good_width = 128;
const batch = 32;
const workers = 2;
const size_classes = [_]u32{ 1 << 12, 1 << 14, 1 << 16, 1 << 18 };

var model: [(1 << 20) + (1 << 14)]u8 = undefined; // the largest size class in float32, and room for names
var noise = chiron.Random{};

fn rowValues(schema: chiron.Schema) u32 {
    return schema.shape[0] * schema.shape[1] * schema.shape[2];
}

/// Trainable values: inputs*width + width + width*classes + classes.
fn widest(schema: chiron.Schema, parameters: u32) u32 {
    return (parameters - schema.classes) / (rowValues(schema) + 1 + schema.classes);
}

/// The smallest size class that leaves room for a good width; the largest if none does. Depends on the public
/// schema alone, so that create() comes to the same answer as configure().
fn sizeClass(schema: chiron.Schema) u32 {
    for (size_classes) |parameters| if (widest(schema, parameters) >= good_width) return parameters;
    return size_classes[3];
}

export fn configure() i32 {
    var schema = chiron.Schema{};
    if (chiron.host.schema(&schema, @sizeOf(chiron.Schema)) < 0 or schema.version != 1) return 1;
    const parameters = sizeClass(schema);
    if (widest(schema, parameters) < min_width) {
        chiron.log("rows are too wide for this perceptron: use a convolutional guest\n");
        return 2;
    }
    chiron.log("perceptron: one hidden layer, AdamW\n");
    const header = chiron.Header{
        .epochs = 20,
        .batch = batch,
        .workers = workers,
        .parameters = parameters,
        .slot_ms = if (parameters <= 1 << 16) 20 else 50,
        .create_ms = if (parameters <= 1 << 16) 2000 else 5000,
    };
    return chiron.host.header(&header, @sizeOf(chiron.Header));
}

const Findings = struct {
    rows: f32, // training rows
    imbalance: f32, // rows of the commonest target over the mean of all
    values: chiron.Summary,
};

fn study(schema: chiron.Schema) ?Findings {
    var values = chiron.Summary{};
    var counts: [2]f32 = undefined;
    var per_target: [max_classes]f32 = undefined;
    if (schema.classes > max_classes) return null;
    if (!chiron.statistics(.all_values, 0, &values)) return null;
    if (!chiron.statistics(.rows_per_target, 0, &per_target)) return null;
    if (!chiron.statistics(.row_counts, 0, &counts)) return null;
    var most: f32 = 0;
    for (per_target[0..schema.classes]) |rows| most = @max(most, rows);
    const classes: f32 = @floatFromInt(schema.classes);
    return .{ .rows = counts[0], .imbalance = most * classes / counts[0], .values = values };
}

fn clamp(value: f32, low: f32, high: f32) f32 {
    return if (value < low) low else if (value > high) high else value;
}

/// About as many hidden units as there are rows a target: more would only learn them by heart.
fn chooseWidth(schema: chiron.Schema, found: Findings) u32 {
    const room: f32 = @floatFromInt(widest(schema, sizeClass(schema)));
    const wanted = found.rows / @as(f32, @floatFromInt(schema.classes));
    return @as(u32, @intFromFloat(clamp(wanted, min_width, room))) & ~@as(u32, 7); // whole SIMD vectors
}

fn choosePlan(schema: chiron.Schema, found: Findings, width: u32) chiron.Plan {
    const parameters: f32 = @floatFromInt((rowValues(schema) + 1 + schema.classes) * width + schema.classes);
    // Smaller steps for wide layers and for rare targets, whose gradients are noisy.
    const narrow = @sqrt(good_width / @as(f32, @floatFromInt(width)));
    const rate = @as(f32, 0.004) * narrow / @sqrt(found.imbalance);
    return .{
        .optimiser = chiron.adamw,
        .learning_rate = clamp(rate, 0.0005, 0.01),
        .weight_decay = clamp(@as(f32, 0.005) * parameters / found.rows, 0.005, 0.1),
        .schedule = chiron.cosine,
        .warmup_steps = @intFromFloat(clamp(found.rows / (batch * workers), 1, 100)),
    };
}

/// He et al., ICCV 2015: deviation sqrt(2 / inputs) keeps the variance through a ReLU.
fn layer(w: *chiron.Onnx, weight: []const u8, bias: []const u8, inputs: u32, outputs: u32) void {
    const deviation = @sqrt(2 / @as(f32, @floatFromInt(inputs)));
    w.floats(weight, &.{ inputs, outputs });
    for (0..inputs * outputs) |_| w.float(deviation * noise.gaussian());
    w.close();
    w.floats(bias, &.{outputs});
    for (0..outputs) |_| w.float(0);
    w.close();
}

fn constant(w: *chiron.Onnx, name: []const u8, value: f32) void {
    w.floats(name, &.{});
    w.float(value);
    w.close();
}

fn node(w: *chiron.Onnx, kind: []const u8, output: []const u8, inputs: []const []const u8) void {
    w.node(kind, output, inputs);
    w.close();
}

fn emitGraph(schema: chiron.Schema, found: Findings, width: u32) bool {
    var w = chiron.Onnx.begin(&model);
    const deviation = found.values.deviation;
    w.input("x", schema.shape[0..schema.rank]);
    w.output("logits", &.{schema.classes});
    constant(&w, "const.mean", found.values.mean);
    constant(&w, "const.scale", if (deviation > 0) 1 / deviation else 1);
    layer(&w, "hidden.weight", "hidden.bias", rowValues(schema), width);
    layer(&w, "output.weight", "output.bias", width, schema.classes);
    node(&w, "Sub", "centred", &.{ "x", "const.mean" });
    node(&w, "Mul", "normal", &.{ "centred", "const.scale" });
    if (schema.rank > 1) {
        w.node("Flatten", "flat", &.{"normal"});
        w.attributeInt("axis", 1);
        w.close();
    }
    const row = if (schema.rank > 1) "flat" else "normal";
    node(&w, "Gemm", "hidden", &.{ row, "hidden.weight", "hidden.bias" });
    node(&w, "Relu", "active", &.{"hidden"});
    node(&w, "Gemm", "logits", &.{ "active", "output.weight", "output.bias" });
    const graph = w.end();
    return chiron.host.graph(graph.ptr, graph.len) >= 0;
}

export fn create() i32 {
    var schema = chiron.Schema{};
    if (chiron.host.schema(&schema, @sizeOf(chiron.Schema)) < 0) return 1;
    const found = study(schema) orelse return 1;
    const width = chooseWidth(schema, found);
    if (!emitGraph(schema, found, width)) return 2;
    const plan = choosePlan(schema, found, width);
    return chiron.host.plan(&plan, @sizeOf(chiron.Plan));
}
