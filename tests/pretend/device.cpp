// A CUDA device for a CPU build of torch: its memory is the host's, its kernels are the CPU's. Every operator on it looks at
// its arguments as a GPU would, then runs on the host's view of the same memory. See device.py, which builds and loads this.
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <set>
#include <string>

namespace {
using at::Tensor;
using c10::IValue;

const c10::Device HERE(at::kCUDA, 0);
int waiting = 0;  // 0 may be, 1 brings a warning, 2 raises: as torch.cuda.set_sync_debug_mode, and inside of a capture

struct Random final : c10::GeneratorImpl {  // a CPU generator under the name of the device
  at::Generator inner = at::detail::createCPUGenerator();
  Random() : GeneratorImpl(HERE, c10::DispatchKeySet(c10::DispatchKey::CUDA)) {}
  void set_current_seed(uint64_t seed) override { inner.set_current_seed(seed); }
  void set_offset(uint64_t) override {}
  uint64_t get_offset() const override { return 0; }
  uint64_t current_seed() const override { return inner.current_seed(); }
  uint64_t seed() override { return inner.seed(); }
  void set_state(const c10::TensorImpl& state) override { inner.unsafeGetGeneratorImpl()->set_state(state); }
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override { return inner.unsafeGetGeneratorImpl()->get_state(); }
  GeneratorImpl* clone_impl() const override {
    auto* other = new Random();
    other->inner = inner.clone();
    return other;
  }
};

// The same memory under the name of another device.
Tensor renamed(const Tensor& x, c10::Device device) {
  auto* owner = new Tensor(x);
  c10::DataPtr data(x.storage().mutable_data(), owner, [](void* p) { delete static_cast<Tensor*>(p); }, device);
  const auto whole = c10::Storage::use_byte_size_t();
  c10::Storage storage(whole, x.storage().nbytes(), std::move(data), c10::GetAllocator(at::kCPU), /*resizable=*/true);
  const auto key = device.is_cuda() ? c10::DispatchKey::CUDA : c10::DispatchKey::CPU;
  Tensor y = at::detail::make_tensor<c10::TensorImpl>(std::move(storage), c10::DispatchKeySet(key), x.dtype());
  y.unsafeGetTensorImpl()->set_sizes_and_strides(x.sizes(), x.strides(), x.storage_offset());
  if (x.unsafeGetTensorImpl()->is_wrapped_number()) y.unsafeGetTensorImpl()->set_wrapped_number(true);
  return y;
}

// The tensors of one call: which were named cuda, under both of their names, and which were the host's own.
struct Arguments {
  std::vector<std::pair<Tensor, Tensor>> swapped;  // of the device, of the host
  std::vector<Tensor> hosts;

  Tensor to_host(const Tensor& x) {
    if (!x.defined()) return x;
    if (!x.is_cuda()) return hosts.push_back(x), x;
    for (auto& [device, host] : swapped)
      if (device.is_same(x)) return host;
    return swapped.emplace_back(x, renamed(x, at::kCPU)).second;
  }
  Tensor to_device(const Tensor& y) const {
    if (!y.defined() || y.is_cuda()) return y;
    for (auto& [device, host] : swapped)
      if (host.is_same(y)) return device;
    for (auto& host : hosts)
      if (host.is_same(y)) return y;
    return renamed(y, HERE);
  }
  // An output that came with too little memory has other memory now.
  void resized() const {
    for (auto& [device, host] : swapped) {
      if (host.sizes() == device.sizes() && host.storage().data() == device.storage().data()) continue;
      device.unsafeGetTensorImpl()->set_storage_keep_dtype(renamed(host, HERE).storage());
      device.unsafeGetTensorImpl()->set_sizes_and_strides(host.sizes(), host.strides(), host.storage_offset());
    }
  }
};

void each_tensor(IValue& value, const std::function<Tensor(const Tensor&)>& change) {
  if (value.isTensor()) {
    value = change(value.toTensor());
  } else if (value.isTensorList()) {
    auto list = value.toTensorVector();
    for (auto& x : list) x = change(x);
    value = list;
  } else if (value.isOptionalTensorList()) {
    c10::List<std::optional<Tensor>> list;
    for (const std::optional<Tensor> x : value.toOptionalTensorList())
      list.push_back(x ? std::optional<Tensor>(change(*x)) : std::nullopt);
    value = list;
  }
}

const std::set<std::string> COPIES = {  // take tensors of both sides
    "aten::copy_", "aten::_copy_from", "aten::index", "aten::index_put_", "aten::_index_put_impl_", "aten::fill_"};
const std::set<std::string> WAITS = {  // the shape of what they give, or a number in Python, depends on values
    "aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::_unique2", "aten::unique_dim",
    "aten::unique_consecutive", "aten::bincount", "aten::equal"};

const std::set<std::string> UNORDERED = {  // sums of floats in whatever order threads come by, unless torch is told to sort
    "aten::index_add", "aten::index_add_", "aten::scatter_add", "aten::scatter_add_", "aten::put_", "aten::index_reduce_",
    "aten::scatter_reduce", "aten::scatter_reduce_"};

struct Call {
  const c10::OperatorHandle& op;
  torch::jit::Stack& stack;
  const std::string& name = op.schema().name();
  const size_t first = stack.size() - op.schema().arguments().size();

  const IValue* argument(const std::string& wanted) const {
    const auto at = op.schema().argumentIndexWithName(wanted);
    return at ? &stack[first + *at] : nullptr;
  }
  bool masks() const {  // index with booleans: how many are true?
    const auto* indices = argument("indices");
    if (!indices || !indices->isOptionalTensorList()) return false;
    for (const std::optional<Tensor> x : indices->toOptionalTensorList())
      if (x && x->defined() && (x->scalar_type() == at::kBool || x->scalar_type() == at::kByte)) return true;
    return false;
  }
  bool draws_by_checking() const {  // of multinomial, what a single draw and draws without replacement take
    return name == "aten::multinomial" && (argument("num_samples")->toInt() == 1 || !argument("replacement")->toBool());
  }
  bool copies_blocking(const Arguments& found) const {  // pinned memory is taken on trust
    if (found.hosts.empty() || !COPIES.count(name) || name == "aten::fill_") return false;
    const auto* value = argument("values");  // index_put_ reads a number from the host as an argument of its kernel
    if (value && found.hosts.size() == 1 && value->isTensor() && value->toTensor().is_cpu() && value->toTensor().dim() == 0)
      return false;
    return name != "aten::copy_" || !argument("non_blocking")->toBool();
  }
  bool adds_in_any_order() const {
    if (!UNORDERED.count(name) || at::globalContext().deterministicAlgorithms()) return false;
    const auto* how = argument("reduce");
    if (how && (how->toStringRef() == "amax" || how->toStringRef() == "amin")) return false;
    return stack[first].toTensor().is_floating_point();
  }
  bool waits(const Arguments& found) const {
    const bool repeats = name == "aten::repeat_interleave" && argument("output_size") && argument("output_size")->isNone();
    return WAITS.count(name) || repeats || masks() || draws_by_checking() || copies_blocking(found);
  }
  bool mixes(const Arguments& found) const {  // a host's number may stand in an elementwise operator
    if (COPIES.count(name)) return false;
    for (auto& x : found.hosts)
      if (x.dim() > 0 || !(op.hasTag(at::Tag::pointwise) || x.unsafeGetTensorImpl()->is_wrapped_number())) return true;
    return false;
  }
};

void run(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const Call call{op, *stack};
  Arguments found;
  std::vector<IValue> given(stack->begin() + call.first, stack->end());
  for (auto& value : given) {
    each_tensor(value, [&](const Tensor& x) { return found.to_host(x); });
    if (value.isDevice() && value.toDevice().is_cuda()) value = c10::Device(at::kCPU);
    if (!value.isGenerator()) continue;
    auto generator = value.toGenerator();
    TORCH_CHECK(generator.device().is_cuda(), "a generator of ", generator.device(), " for ", call.name, " on cuda");
    value = static_cast<Random*>(generator.unsafeGetGeneratorImpl())->inner;
  }
  TORCH_CHECK(!call.mixes(found), "pretended device: ", call.name, " mixes tensors of cuda and of the host");
  TORCH_CHECK(!call.adds_in_any_order(), call.name, " adds in any order (nsbench.training.repeatable)");
  if (waiting && call.waits(found)) {
    TORCH_CHECK(waiting == 1, "called a synchronizing CUDA operation: ", call.name);
    TORCH_WARN("called a synchronizing CUDA operation: ", call.name);
  }
  const bool to_python = call.name == "aten::_local_scalar_dense";
  std::move(given.begin(), given.end(), stack->begin() + call.first);
  op.callBoxed(stack);
  found.resized();
  for (size_t i = stack->size() - op.schema().returns().size(); i < stack->size() && !to_python; i++)
    each_tensor((*stack)[i], [&](const Tensor& y) { return found.to_device(y); });
}
}  // namespace

namespace at {
struct CUDAHooks : CUDAHooksInterface {
  explicit CUDAHooks(CUDAHooksArgs) {}
  void init() const override {}
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasCUDA() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  DeviceIndex deviceCount() const override { return 1; }
  DeviceIndex getCurrentDevice() const override { return 0; }
  DeviceIndex current_device() const override { return 0; }
  void setCurrentDevice(DeviceIndex) const override {}
  Generator getNewGenerator(DeviceIndex) const override { return make_generator<Random>(); }
  Allocator* getPinnedMemoryAllocator() const override { return c10::GetAllocator(kCPU); }
  const Generator& getDefaultGenerator(DeviceIndex) const override {
    static Generator generator = make_generator<Random>();
    return generator;
  }
};
REGISTER_CUDA_HOOKS(CUDAHooks)

struct Guard : c10::impl::DeviceGuardImplInterface {  // one device, one stream
  c10::Stream stream() const { return c10::Stream(c10::Stream::DEFAULT, HERE); }
  DeviceType type() const override { return kCUDA; }
  Device exchangeDevice(Device) const override { return HERE; }
  Device getDevice() const override { return HERE; }
  void setDevice(Device) const override {}
  void uncheckedSetDevice(Device) const noexcept override {}
  c10::Stream getStream(Device) const override { return stream(); }
  c10::Stream exchangeStream(c10::Stream) const override { return stream(); }
  DeviceIndex deviceCount() const noexcept override { return 1; }
  void record(void**, const c10::Stream&, const DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void destroyEvent(void*, const DeviceIndex) const noexcept override {}
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override {}
};
C10_REGISTER_GUARD_IMPL(CUDA, Guard)

namespace native {  // what torch's own kernels of the same operators call, and no header of it declares
Tensor as_strided_tensorimpl(const Tensor&, IntArrayRef, IntArrayRef, std::optional<int64_t>);
Tensor view(const Tensor&, IntArrayRef);
Tensor& set_(Tensor&, Storage);
Tensor& set_storage_cpu_(Tensor&, Storage, int64_t, IntArrayRef, IntArrayRef);
}  // namespace native
}  // namespace at

TORCH_LIBRARY_IMPL(_, CUDA, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&run>()); }

TORCH_LIBRARY_IMPL(aten, CUDA, m) {  // views share the device's own storage
  using Ints = c10::SymIntArrayRef;
  m.impl("copy_", torch::CppFunction::makeFromBoxedFunction<&run>());
  m.impl("as_strided", [](const Tensor& x, Ints sizes, Ints strides, std::optional<c10::SymInt> offset) {
    const auto at = offset ? std::optional<int64_t>(offset->expect_int()) : std::nullopt;
    return at::native::as_strided_tensorimpl(x, C10_AS_INTARRAYREF_SLOW(sizes), C10_AS_INTARRAYREF_SLOW(strides), at);
  });
  m.impl("view", [](const Tensor& x, Ints sizes) { return at::native::view(x, C10_AS_INTARRAYREF_SLOW(sizes)); });
  m.impl("set_.source_Storage", [](Tensor& x, c10::Storage s) -> Tensor& { return at::native::set_(x, s); });
  m.impl("set_.source_Storage_storage_offset",
         [](Tensor& x, c10::Storage s, c10::SymInt offset, Ints sizes, Ints strides) -> Tensor& {
           const auto n = C10_AS_INTARRAYREF_SLOW(sizes), t = C10_AS_INTARRAYREF_SLOW(strides);
           return at::native::set_storage_cpu_(x, s, offset.expect_int(), n, t);
         });
}

extern "C" void pretended_waiting(int mode) { waiting = mode; }
extern "C" int pretended_waiting_mode() { return waiting; }
