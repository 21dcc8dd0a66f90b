// Reference loop: images in, class masks out, for programs that ship no Python.
//
//   edgemt_run MODEL [--runtime openvino|onnxruntime] [--library FILE] [--threads N] [--precision f32|bf16|f16]
//              [--out DIR] [IMAGE ...]
//
// MODEL is a folder that `edgemt export SHIP --serve cpp` writes: the graph, model.txt, and golden frames with their
// masks. The golden frames run first, and a graph that does not reproduce them runs nothing. An IMAGE is a binary PGM
// or PPM of 8 bits; its mask DIR/NAME.mask.pgm has the size of the image and holds class indices, or, where model.txt has
// `overlapping`, bits: the value 2^(k - 1) is set where class k is. Normalisation and argmax are inside the graph; what
// is left outside, and is here bit for bit what EdgeMT's Python code computes, is `fit_frame` (grey or colour, then
// Pillow's antialiased bilinear resizing) and `fit_label` (nearest neighbour).
//
// Exit status: 0, or 2 with one line on stderr for whatever is wrong.

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iostream>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#ifdef EDGEMT_OPENVINO
#include <openvino/openvino.hpp>
#endif
#ifdef EDGEMT_ONNXRUNTIME
#include <dlfcn.h>
#include <onnxruntime_c_api.h>
#endif

namespace {

namespace fs = std::filesystem;
using Bytes = std::vector<uint8_t>;

[[noreturn]] void fail(const std::string& message) { throw std::runtime_error(message); }

// --- images -----------------------------------------------------------------------------------------------------

struct Image {  // rows x columns x channels, channels last
  int rows = 0, columns = 0, channels = 0;
  Bytes pixels;
};

Image read_image(const fs::path& path) {  // binary PGM or PPM
  std::ifstream in(path, std::ios::binary);
  if (!in) fail(path.string() + ": no such image");
  std::string magic(2, ' '), comment;
  in.read(magic.data(), 2);
  auto number = [&] {
    while ((in >> std::ws).peek() == '#') std::getline(in, comment);
    int value = 0;
    return in >> value && value > 0 && value < 1 << 20 ? value : 0;
  };
  Image image;
  image.channels = magic == "P5" ? 1 : 3;
  image.columns = number(), image.rows = number();
  if ((magic != "P5" && magic != "P6") || !image.columns || !image.rows || number() != 255)
    fail(path.string() + ": no binary PGM or PPM of 8 bits; convert it (P5 or P6)");
  in.get();  // one white space ends the header
  image.pixels.resize(size_t(image.rows) * image.columns * image.channels);
  in.read(reinterpret_cast<char*>(image.pixels.data()), std::streamsize(image.pixels.size()));
  if (size_t(in.gcount()) != image.pixels.size()) fail(path.string() + ": is cut short");
  return image;
}

void write_mask(const fs::path& path, const Image& mask) {
  std::ofstream out(path, std::ios::binary);
  out << "P5\n" << mask.columns << ' ' << mask.rows << "\n255\n";
  out.write(reinterpret_cast<const char*>(mask.pixels.data()), std::streamsize(mask.pixels.size()));
  out.close();
  if (!out) fail(path.string() + ": cannot be written");
}

// --- the frame as the network reads it (edgemt.io.images.fit_frame) ----------------------------------------------

constexpr int kBits = 22;  // of the weights: 32 less 8 of the pixel and 2 for the sum, as in Pillow

// One pass over an image [outer, source, inner] of bytes: every line of `source` values becomes one of `target`.
Bytes resize_pass(const Bytes& from, int outer, int source, int target, int inner) {
  const double scale = double(source) / target, wide = std::max(scale, 1.0), inverse = 1.0 / wide;
  Bytes to(size_t(outer) * target * inner);
  for (int t = 0; t < target; ++t) {
    const double centre = (t + 0.5) * scale;
    const int first = std::max(int(centre - wide + 0.5), 0), last = std::min(int(centre + wide + 0.5), source);
    std::vector<double> exact;  // a triangle over the source values `first` to `last`
    double sum = 0;
    for (int k = first; k < last; ++k) {
      exact.push_back(std::max(1.0 - std::abs((k - centre + 0.5) * inverse), 0.0));
      sum += exact.back();
    }
    std::vector<int32_t> weights;
    for (double weight : exact) weights.push_back(int32_t(0.5 + weight / sum * (1 << kBits)));
    for (int o = 0; o < outer; ++o)
      for (int i = 0; i < inner; ++i) {
        const uint8_t* pixel = &from[(size_t(o) * source + first) * inner + i];
        int32_t total = 1 << (kBits - 1);
        for (size_t k = 0; k < weights.size(); ++k) total += pixel[k * inner] * weights[k];
        to[(size_t(o) * target + t) * inner + i] = uint8_t(std::clamp(total >> kBits, 0, 255));
      }
  }
  return to;
}

Image to_channels(const Image& image, int channels) {
  if (image.channels == channels) return image;
  Image result{image.rows, image.columns, channels, Bytes(size_t(image.rows) * image.columns * channels)};
  for (size_t i = 0; i < size_t(image.rows) * image.columns; ++i) {
    if (channels == 1) {  // luminance, ITU-R 601-2
      const uint8_t* p = &image.pixels[3 * i];
      result.pixels[i] = uint8_t((p[0] * 19595 + p[1] * 38470 + p[2] * 7471 + 0x8000) >> 16);
    } else {
      std::fill_n(&result.pixels[3 * i], 3, image.pixels[i]);
    }
  }
  return result;
}

// Planes that lie side by side in one grey image, as golden frames of several slices do -> channels last.
Image from_side_by_side(const Image& wide, int channels) {
  if (wide.channels != 1 || wide.columns % channels) fail("image: wanted a PGM with the planes side by side");
  Image image{wide.rows, wide.columns / channels, channels, Bytes(wide.pixels.size())};
  for (int row = 0; row < image.rows; ++row)
    for (int k = 0; k < channels; ++k)
      for (int column = 0; column < image.columns; ++column)
        image.pixels[(size_t(row) * image.columns + column) * channels + k] =
            wide.pixels[(size_t(row) * channels + k) * image.columns + column];
  return image;
}

Image fit_frame(const Image& source, int rows, int columns, int channels) {
  Image image = channels == 1 || channels == 3 ? to_channels(source, channels) : from_side_by_side(source, channels);
  // Pillow 13 begins with the rows where they shrink more than twice as much; older ones always with the columns,
  // which changes such images by one grey level at most
  const bool rows_first = image.rows > rows && image.rows - rows > 2 * (image.columns - columns);
  for (bool across : {!rows_first, rows_first}) {
    if (across && image.columns != columns)
      image.pixels = resize_pass(image.pixels, image.rows, image.columns, columns, channels), image.columns = columns;
    if (!across && image.rows != rows)
      image.pixels = resize_pass(image.pixels, 1, image.rows, rows, image.columns * channels), image.rows = rows;
  }
  return image;
}

// --- the mask in the size of the source (edgemt.io.images.fit_label) ---------------------------------------------

Image fit_label(const Image& mask, int rows, int columns) {
  const auto positions = [](int source, int target) {
    std::vector<int> found;
    const double step = double(source) / target;
    for (double at = step * 0.5; int(found.size()) < target; at += step)  // summed up, as Pillow does
      found.push_back(std::min(int(at), source - 1));
    return found;
  };
  if (mask.rows == rows && mask.columns == columns) return mask;
  Image result{rows, columns, 1, {}};
  const std::vector<int> across = positions(mask.columns, columns);
  for (int row : positions(mask.rows, rows))
    for (int column : across) result.pixels.push_back(mask.pixels[size_t(row) * mask.columns + column]);
  return result;
}

// --- the model ----------------------------------------------------------------------------------------------------

struct Model {  // model.txt: a line each, a key and its values
  fs::path folder;
  std::string name, graph;
  int rows = 0, columns = 0, channels = 0;
  std::vector<std::string> classes;                    // names, for the caller; the first is the background
  bool overlapping = false;                            // masks hold bits of classes
  std::vector<std::pair<std::string, double>> golden;  // name, fraction of pixels that must have the golden class
};

Model read_model(const fs::path& folder) {
  std::ifstream in(folder / "model.txt");
  if (!in) fail((folder / "model.txt").string() + ": not there; make the folder with edgemt export SHIP --serve cpp");
  Model model;
  model.folder = folder;
  std::string line, key;
  bool known = false;
  while (std::getline(in, line)) {
    std::istringstream words(line);
    words >> key;
    if (key == "edgemt-model") words >> key, known = key == "1";
    else if (key == "name") std::getline(words >> std::ws, model.name);
    else if (key == "graph") words >> model.graph;
    else if (key == "size") words >> model.rows >> model.columns;
    else if (key == "channels") words >> model.channels;
    else if (key == "class") std::getline(words >> std::ws, key), model.classes.push_back(key);
    else if (key == "overlapping") words >> model.overlapping;
    else if (key == "golden") words >> key, model.golden.emplace_back(key, 0), words >> model.golden.back().second;
    if (words.fail()) fail((folder / "model.txt").string() + ": cannot be read: " + line);
  }
  if (!known || model.graph.empty() || model.rows < 1 || model.columns < 1 || model.channels < 1)
    fail((folder / "model.txt").string() + ": is no description of format 1; export the ship again");
  return model;
}

struct Options {
  std::string runtime, library = "libonnxruntime.so.1", precision;
  int threads = 1;
  fs::path folder, out = "masks";
  std::vector<fs::path> images;
};

using Runner = std::function<Image(const Image&)>;  // frame [H, W, K] -> mask [H, W]; one call at a time

#ifdef EDGEMT_OPENVINO
Runner open_openvino(const Model& model, const Options& options) {
  ov::AnyMap config{ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY),
                    ov::inference_num_threads(options.threads)};
  if (!options.precision.empty()) config["INFERENCE_PRECISION_HINT"] = options.precision;
  auto core = std::make_shared<ov::Core>();  // lives as long as the runner
  auto compiled = core->compile_model((model.folder / model.graph).string(), "CPU", config);
  return [core, compiled, request = compiled.create_infer_request()](const Image& frame) mutable {
    const ov::Shape shape{1, size_t(frame.rows), size_t(frame.columns), size_t(frame.channels)};
    request.set_tensor("frame", ov::Tensor(ov::element::u8, shape, const_cast<uint8_t*>(frame.pixels.data())));
    request.infer();
    const uint8_t* mask = request.get_tensor("mask").data<uint8_t>();  // beside it may lie an uncertainty
    return Image{frame.rows, frame.columns, 1, Bytes(mask, mask + size_t(frame.rows) * frame.columns)};
  };
}
#endif

#ifdef EDGEMT_ONNXRUNTIME
Runner open_onnxruntime(const Model& model, const Options& options) {  // its objects live until the program ends
  setenv("ORT_DISABLE_TELEMETRY", "1", 0);                             // before the library is opened
  void* library = dlopen(options.library.c_str(), RTLD_NOW);
  if (!library) fail(std::string(dlerror()) + "; name the library with --library");
  const auto base = reinterpret_cast<const OrtApiBase* (*)()>(dlsym(library, "OrtGetApiBase"));
  const OrtApi* api = base ? base()->GetApi(16) : nullptr;  // the C interface of ONNX Runtime 1.16
  if (!api) fail(options.library + ": is no ONNX Runtime of version 1.16 or newer");
  const auto check = [api](OrtStatus* status) {
    if (status) fail(std::string("onnxruntime: ") + api->GetErrorMessage(status));
  };
  OrtEnv* env = nullptr;
  OrtSessionOptions* settings = nullptr;
  OrtSession* session = nullptr;
  OrtMemoryInfo* memory = nullptr;
  check(api->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "edgemt", &env));
  check(api->CreateSessionOptions(&settings));
  check(api->SetIntraOpNumThreads(settings, options.threads));
  check(api->SetInterOpNumThreads(settings, 1));
  check(api->CreateSession(env, (model.folder / model.graph).c_str(), settings, &session));
  check(api->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory));
  return [=](const Image& frame) {
    const int64_t shape[] = {1, frame.rows, frame.columns, frame.channels};
    const auto tensor = [&](Bytes& bytes, size_t rank) {
      OrtValue* value = nullptr;
      check(api->CreateTensorWithDataAsOrtValue(memory, bytes.data(), bytes.size(), shape, rank,
                                                ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, &value));
      return value;
    };
    Image mask{frame.rows, frame.columns, 1, Bytes(size_t(frame.rows) * frame.columns)};
    OrtValue *input = tensor(const_cast<Bytes&>(frame.pixels), 4), *output = tensor(mask.pixels, 3);
    const char *in = "frame", *out = "mask";
    check(api->Run(session, nullptr, &in, &input, 1, &out, 1, &output));
    api->ReleaseValue(input);
    api->ReleaseValue(output);
    return mask;
  };
}
#endif

Runner open(const Model& model, const Options& options) {
#ifdef EDGEMT_OPENVINO
  if (options.runtime.empty() || options.runtime == "openvino") return open_openvino(model, options);
#endif
  if (!options.precision.empty()) fail("--precision: of OpenVINO alone");
#ifdef EDGEMT_ONNXRUNTIME
  if (options.runtime.empty() || options.runtime == "onnxruntime") return open_onnxruntime(model, options);
#endif
  fail("--runtime " + options.runtime + ": was not built into this program");
}

// Raises unless every golden frame gives its golden mask, on as many pixels as model.txt requires.
void self_test(const Model& model, const Runner& runner) {
  for (const auto& [name, least] : model.golden) {
    const fs::path stem = model.folder / "golden" / name;
    const Image frame = read_image(stem.string() + (model.channels == 3 ? ".ppm" : ".pgm"));
    const Image expected = read_image(stem.string() + ".mask.pgm");
    const Image mask = runner(fit_frame(frame, model.rows, model.columns, model.channels));
    if (expected.pixels.size() != mask.pixels.size()) fail(stem.string() + ".mask.pgm: has another size");
    size_t same = 0;
    for (size_t i = 0; i < mask.pixels.size(); ++i) same += mask.pixels[i] == expected.pixels[i];
    const double part = double(same) / double(mask.pixels.size());
    if (part < least)
      fail("golden frame " + name + ": " + std::to_string(part) + " of its mask reproduced, wanted " +
           std::to_string(least) + "; do not use this graph here");
  }
}

Options read_arguments(int count, char** arguments) {
  Options options;
  for (int i = 1; i < count; ++i) {
    const std::string word = arguments[i];
    if (word.rfind("--", 0) != 0) {
      if (options.folder.empty()) options.folder = word;
      else options.images.emplace_back(word);
      continue;
    }
    if (i + 1 == count) fail(word + ": needs a value");
    const std::string value = arguments[++i];
    if (word == "--runtime") options.runtime = value;
    else if (word == "--library") options.library = value;
    else if (word == "--precision") options.precision = value;
    else if (word == "--threads") options.threads = std::atoi(value.c_str());
    else if (word == "--out") options.out = value;
    else fail(word + ": unknown");
  }
  if (options.folder.empty()) fail("name the folder of a model, then images");
  if (options.threads < 1) fail("--threads: must be 1 or more");
  return options;
}

// The values of a mask and their classes: "1 organ, 2 tool", or of bits that may be set together "1 organ, 2 tool, bits".
std::string legend(const Model& model) {
  std::string text;
  for (size_t k = 1; k < model.classes.size(); ++k)
    text += std::to_string(model.overlapping ? 1 << (k - 1) : k) + ' ' + model.classes[k] + ", ";
  return text + (model.overlapping ? "bits that may be set together" : "0 background");
}

void run(const Options& options) {
  const Model model = read_model(options.folder);
  const Runner runner = open(model, options);
  self_test(model, runner);
  std::cout << model.name << ": " << model.golden.size() << " golden frames reproduced; masks: " << legend(model) << std::endl;
  fs::create_directories(options.out);
  for (const fs::path& path : options.images) {
    const Image image = read_image(path);
    const auto start = std::chrono::steady_clock::now();
    const Image mask = runner(fit_frame(image, model.rows, model.columns, model.channels));
    const std::chrono::duration<double, std::milli> time = std::chrono::steady_clock::now() - start;
    const bool planes = model.channels != 1 && model.channels != 3;
    const fs::path target = options.out / (path.stem().string() + ".mask.pgm");
    write_mask(target, fit_label(mask, image.rows, planes ? image.columns / model.channels : image.columns));
    std::cout << target.string() << ' ' << time.count() << " ms" << std::endl;
  }
}

}  // namespace

int main(int count, char** arguments) {
  try {
    run(read_arguments(count, arguments));
    return 0;
  } catch (const std::exception& error) {
    std::cerr << "edgemt_run: " << error.what() << std::endl;
    return 2;
  }
}
