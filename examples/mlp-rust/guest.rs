//! A perceptron with one hidden layer for any rows of numbers: tables, or small images such as 8x8 digits.
//!
//! configure() sees the shape of the data and says publicly how long training takes. create() sees the data
//! and chooses what stays secret: the hidden layer's width, the learning rate, the weight decay.
use chiron::{Header, Onnx, Plan, Random, Schema};

const MAX_CLASSES: usize = 256;
const MIN_WIDTH: u32 = 16;
const GOOD_WIDTH: u32 = 128;
const BATCH: u32 = 32;
const WORKERS: u32 = 2;
const SIZE_CLASSES: [u32; 4] = [1 << 12, 1 << 14, 1 << 16, 1 << 18];
const NAMES_BYTES: usize = 1 << 14; // room in the model beside its parameters

fn row_values(schema: &Schema) -> u32 {
    schema.shape.iter().product()
}

/// Trainable values: inputs*width + width + width*classes + classes.
fn widest(schema: &Schema, parameters: u32) -> u32 {
    (parameters - schema.classes) / (row_values(schema) + 1 + schema.classes)
}

/// The smallest size class that leaves room for a good width; the largest if none does. Depends on the public
/// schema alone, so that create() comes to the same answer as configure().
fn size_class(schema: &Schema) -> u32 {
    let mut roomy = SIZE_CLASSES.iter().filter(|&&parameters| widest(schema, parameters) >= GOOD_WIDTH);
    *roomy.next().unwrap_or(&SIZE_CLASSES[3])
}

#[no_mangle]
pub extern "C" fn configure() -> i32 {
    let schema = match chiron::schema() {
        Some(schema) => schema,
        None => return 1,
    };
    let parameters = size_class(&schema);
    if widest(&schema, parameters) < MIN_WIDTH {
        chiron::log("rows are too wide for this perceptron: use a convolutional guest\n");
        return 2;
    }
    chiron::log("perceptron: one hidden layer, AdamW\n");
    let slot_ms = if parameters <= 1 << 16 { 20 } else { 50 };
    let create_ms = if parameters <= 1 << 16 { 2000 } else { 5000 };
    chiron::header(&Header { epochs: 20, batch: BATCH, workers: WORKERS, parameters, slot_ms, create_ms })
}

struct Findings {
    rows: f32,      // training rows
    imbalance: f32, // rows of the commonest target over the mean of all
    mean: f32,
    deviation: f32,
}

fn study(schema: &Schema) -> Option<Findings> {
    let (mut values, mut counts, mut per_target) = ([0.0; 4], [0.0; 2], [0.0; MAX_CLASSES]);
    chiron::statistics(chiron::ALL_VALUES, 0, &mut values)?;
    chiron::statistics(chiron::ROWS_PER_TARGET, 0, &mut per_target)?;
    chiron::statistics(chiron::ROW_COUNTS, 0, &mut counts)?;
    let most = per_target.get(..schema.classes as usize)?.iter().fold(0.0f32, |most, &rows| most.max(rows));
    let imbalance = most * schema.classes as f32 / counts[0];
    Some(Findings { rows: counts[0], imbalance, mean: values[0], deviation: values[1] })
}

fn clamp(value: f32, low: f32, high: f32) -> f32 {
    if value < low { low } else if value > high { high } else { value }
}

/// About as many hidden units as there are rows a target: more would only learn them by heart.
fn choose_width(schema: &Schema, found: &Findings) -> u32 {
    let room = widest(schema, size_class(schema)) as f32;
    clamp(found.rows / schema.classes as f32, MIN_WIDTH as f32, room) as u32 & !7 // whole SIMD vectors
}

fn choose_plan(schema: &Schema, found: &Findings, width: u32) -> Plan {
    let parameters = ((row_values(schema) + 1 + schema.classes) * width + schema.classes) as f32;
    // Smaller steps for wide layers and for rare targets, whose gradients are noisy.
    let rate = 0.004 * (GOOD_WIDTH as f32 / width as f32).sqrt() / found.imbalance.sqrt();
    Plan {
        version: 1,
        optimiser: chiron::ADAMW,
        learning_rate: clamp(rate, 0.0005, 0.01),
        weight_decay: clamp(0.005 * parameters / found.rows, 0.005, 0.1),
        schedule: chiron::COSINE,
        warmup_steps: clamp(found.rows / (BATCH * WORKERS) as f32, 1.0, 100.0) as u32,
        ..Plan::default()
    }
}

/// He et al., ICCV 2015: deviation sqrt(2 / inputs) keeps the variance through a ReLU.
fn layer(w: &mut Onnx, noise: &mut Random, name: &str, inputs: u32, outputs: u32) {
    let deviation = (2.0 / inputs as f32).sqrt();
    let weights = (0..inputs * outputs).map(|_| deviation * noise.gaussian());
    w.floats(&[name, ".weight"].concat(), &[inputs, outputs], weights);
    w.floats(&[name, ".bias"].concat(), &[outputs], (0..outputs).map(|_| 0.0));
}

fn emit_graph(schema: &Schema, found: &Findings, width: u32) -> i32 {
    let mut w = Onnx::begin(4 * size_class(schema) as usize + NAMES_BYTES);
    let mut noise = Random::new();
    let scale = if found.deviation > 0.0 { 1.0 / found.deviation } else { 1.0 };
    w.input("x", &schema.shape[..schema.rank as usize]);
    w.output("logits", &[schema.classes]);
    w.floats("const.mean", &[], [found.mean].into_iter());
    w.floats("const.scale", &[], [scale].into_iter());
    layer(&mut w, &mut noise, "hidden", row_values(schema), width);
    layer(&mut w, &mut noise, "output", width, schema.classes);
    w.node("Sub", "centred", &["x", "const.mean"], &[]);
    w.node("Mul", "normal", &["centred", "const.scale"], &[]);
    if schema.rank > 1 {
        w.node("Flatten", "flat", &["normal"], &[("axis", 1)]);
    }
    let row = if schema.rank > 1 { "flat" } else { "normal" };
    w.node("Gemm", "hidden", &[row, "hidden.weight", "hidden.bias"], &[]);
    w.node("Relu", "active", &["hidden"], &[]);
    w.node("Gemm", "logits", &["active", "output.weight", "output.bias"], &[]);
    w.emit()
}

#[no_mangle]
pub extern "C" fn create() -> i32 {
    let found = chiron::schema().and_then(|schema| study(&schema).map(|found| (schema, found)));
    let (schema, found) = match found {
        Some(both) => both,
        None => return 1,
    };
    let width = choose_width(&schema, &found);
    if emit_graph(&schema, &found, width) < 0 {
        return 2;
    }
    chiron::plan(&choose_plan(&schema, &found, width))
}
