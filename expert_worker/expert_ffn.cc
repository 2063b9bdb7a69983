#include "expert_worker/expert_ffn.h"

#include <algorithm>
#include <numeric>

#include "absl/strings/str_cat.h"

#include "common/base/status_macros.h"

namespace m1 {
namespace {

// Bounds the scratch memory; far above the rows an expert needs to be bound by arithmetic.
constexpr int64_t kMaxRunPairs = 4096;

// Where rows of one job stand in the job and among the sorted items.
struct RowMoves {
  std::vector<int32_t> rows;      // of job.rows
  std::vector<int32_t> places;    // among the items
  std::vector<int32_t> out_rows;  // of job.out

  void Reserve(size_t count) {
    rows.reserve(count);
    places.reserve(count);
    out_rows.reserve(count);
  }
};

absl::Status ValidateOut(const ExpertJob& job, int64_t hidden) {
  const auto num_pairs = static_cast<int64_t>(job.pairs.size());
  const Shape wanted = {job.out_rows.empty() || job.out.rank() < 1 ? num_pairs : job.out.dim(0),
                        hidden};
  if (!(job.out.shape() == wanted)) {
    return absl::InvalidArgumentError(
        absl::StrCat("out is ", job.out.shape().ToString(), ", want ", wanted.ToString()));
  }
  if (!job.out_rows.empty() && job.out_rows.size() != job.pairs.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat(job.out_rows.size(), " rows of out for ", num_pairs, " pairs"));
  }
  return absl::OkStatus();
}

}  // namespace

ExpertFfn::ExpertFfn(const ExpertStore* store, KernelBackend* backend, DType activation_dtype)
    : store_(store),
      backend_(backend),
      activation_dtype_(activation_dtype),
      timer_(backend->NewTimer()),
      rows_(static_cast<size_t>(store->shape().num_layers) * store->experts().size()),
      nanoseconds_(store->experts().size()) {}

std::vector<ExpertLoad> ExpertFfn::Loads() const {
  std::vector<ExpertLoad> loads;
  const std::vector<int32_t>& experts = store_->experts();
  for (size_t i = 0; i < rows_.size(); ++i) {
    loads.push_back({static_cast<int32_t>(i / experts.size()), experts[i % experts.size()],
                     rows_[i].load(std::memory_order_relaxed)});
  }
  return loads;
}

std::vector<std::pair<int32_t, absl::Duration>> ExpertFfn::ComputeTimes() const {
  std::vector<std::pair<int32_t, absl::Duration>> times;
  for (size_t i = 0; i < nanoseconds_.size(); ++i) {
    times.emplace_back(store_->experts()[i],
                       absl::Nanoseconds(nanoseconds_[i].load(std::memory_order_relaxed)));
  }
  return times;
}

std::vector<ExpertFfn::ComputedRows> ExpertFfn::CountRows(int32_t layer,
                                                          std::span<const Item> items,
                                                          std::span<const ExpertGroup> groups) {
  std::vector<ComputedRows> experts;
  experts.reserve(groups.size());
  for (const ExpertGroup& group : groups) {
    const size_t place = store_->place(items[static_cast<size_t>(group.row_begin)].expert);
    rows_[static_cast<size_t>(layer) * nanoseconds_.size() + place].fetch_add(
        group.num_rows, std::memory_order_relaxed);
    experts.push_back({place, group.num_rows});
  }
  return experts;
}

void ExpertFfn::CountTime(std::span<const ComputedRows> experts, absl::Duration time) {
  int64_t num_rows = 0;
  for (const ComputedRows& expert : experts) num_rows += expert.num_rows;
  const double per_row =
      static_cast<double>(absl::ToInt64Nanoseconds(time)) / static_cast<double>(num_rows);
  for (const ComputedRows& expert : experts) {
    nanoseconds_[expert.place].fetch_add(
        static_cast<int64_t>(per_row * static_cast<double>(expert.num_rows)),
        std::memory_order_relaxed);
  }
}

absl::Status ExpertFfn::ValidateJob(const ExpertJob& job) const {
  const ExpertModelShape& shape = store_->shape();
  if (job.layer < 0 || job.layer >= shape.num_layers) {
    return absl::InvalidArgumentError(
        absl::StrCat("layer ", job.layer, ", the model has ", shape.num_layers));
  }
  if (job.rows.rank() != 2 || job.rows.dim(1) != shape.hidden_size) {
    return absl::InvalidArgumentError(absl::StrCat("rows are ", job.rows.shape().ToString(),
                                                   ", want [num_rows, ", shape.hidden_size, "]"));
  }
  if (job.rows.dtype() != activation_dtype_ || job.out.dtype() != activation_dtype_) {
    return absl::InvalidArgumentError(
        absl::StrCat("rows are ", std::string(DTypeName(job.rows.dtype())), ", this worker takes ",
                     std::string(DTypeName(activation_dtype_))));
  }
  M1_RETURN_IF_ERROR(ValidateOut(job, shape.hidden_size));
  for (const RowExpert& pair : job.pairs) {
    if (pair.row < 0 || pair.row >= job.rows.dim(0)) {
      return absl::InvalidArgumentError(
          absl::StrCat("row ", pair.row, " of ", job.rows.dim(0), " rows"));
    }
    if (!store_->hosts(pair.expert)) {
      return absl::InvalidArgumentError(
          absl::StrCat("expert ", pair.expert, " is not hosted by this worker"));
    }
  }
  return absl::OkStatus();
}

absl::Status ExpertFfn::Execute(std::span<const ExpertJob> jobs) {
  std::vector<Item> items;
  for (size_t job = 0; job < jobs.size(); ++job) {
    for (size_t pair = 0; pair < jobs[job].pairs.size(); ++pair) {
      items.push_back(
          {jobs[job].pairs[pair].expert, static_cast<int32_t>(job), static_cast<int32_t>(pair)});
    }
  }
  std::stable_sort(items.begin(), items.end(),
                   [](const Item& a, const Item& b) { return a.expert < b.expert; });
  std::span<const Item> rest = items;
  while (!rest.empty()) {
    const size_t count = std::min(rest.size(), static_cast<size_t>(kMaxRunPairs));
    M1_RETURN_IF_ERROR(RunSorted(jobs, rest.first(count)));
    rest = rest.subspan(count);
  }
  return backend_->Submit();  // rows may lie in memory that others take over
}

absl::Status ExpertFfn::RunSorted(std::span<const ExpertJob> jobs, std::span<const Item> items) {
  const int64_t num_pairs = static_cast<int64_t>(items.size());
  GrowScratch(num_pairs);
  const TensorView x = x_.view().Rows(0, num_pairs);
  const TensorView y = y_.view().Rows(0, num_pairs);
  std::vector<ExpertGroup> groups;
  std::vector<RowMoves> moves(jobs.size());
  for (size_t i = 0; i < jobs.size(); ++i) moves[i].Reserve(jobs[i].pairs.size());
  for (int64_t i = 0; i < num_pairs; ++i) {
    const Item& item = items[static_cast<size_t>(i)];
    const ExpertJob& job = jobs[static_cast<size_t>(item.job)];
    const RowExpert& pair = job.pairs[static_cast<size_t>(item.pair)];
    RowMoves& job_moves = moves[static_cast<size_t>(item.job)];
    job_moves.rows.push_back(pair.row);
    job_moves.places.push_back(static_cast<int32_t>(i));
    job_moves.out_rows.push_back(job.out_row(static_cast<size_t>(item.pair)));
    if (i == 0 || items[static_cast<size_t>(i) - 1].expert != item.expert) {
      const ExpertWeights& weights = store_->weights(job.layer, item.expert);
      groups.push_back({i, 0, weights.w1, weights.w2, weights.w3});
    }
    ++groups.back().num_rows;
  }
  for (size_t i = 0; i < jobs.size(); ++i) {
    M1_RETURN_IF_ERROR(backend_->CopyRows(jobs[i].rows, moves[i].rows, x, moves[i].places));
  }
  timer_->Begin();
  M1_RETURN_IF_ERROR(backend_->ExpertFfn(x, groups, mid_.view().Rows(0, num_pairs), y));
  const int32_t layer = jobs[static_cast<size_t>(items[0].job)].layer;
  timer_->End([this, experts = CountRows(layer, items, groups)](absl::Duration time) {
    CountTime(experts, time);
  });
  for (size_t i = 0; i < jobs.size(); ++i) {
    M1_RETURN_IF_ERROR(backend_->CopyRows(y, moves[i].places, jobs[i].out, moves[i].out_rows));
  }
  return absl::OkStatus();
}

absl::Status ExpertFfn::WarmUp(int64_t num_pairs) {
  num_pairs = std::clamp<int64_t>(num_pairs, 1, kMaxRunPairs);
  GrowScratch(num_pairs);
  std::vector<ExpertGroup> groups;  // one row of each expert: the backend's memory is for all
  for (const int32_t expert : hosted_experts()) {
    const auto row = static_cast<int64_t>(groups.size());
    if (row == num_pairs) break;
    const ExpertWeights& weights = store_->weights(0, expert);
    groups.push_back({row, 1, weights.w1, weights.w2, weights.w3});
  }
  std::vector<int32_t> rows(static_cast<size_t>(num_pairs));
  std::iota(rows.begin(), rows.end(), 0);
  const TensorView x = x_.view().Rows(0, num_pairs);
  const TensorView y = y_.view().Rows(0, num_pairs);
  M1_RETURN_IF_ERROR(backend_->ExpertFfn(x, groups, mid_.view().Rows(0, num_pairs), y));
  return backend_->CopyRows(y, rows, x, rows);
}

void ExpertFfn::GrowScratch(int64_t num_pairs) {
  const int64_t capacity = x_.shape().rank() == 0 ? 0 : x_.shape()[0];
  if (num_pairs <= capacity) return;
  const int64_t grown = std::max<int64_t>(num_pairs, std::min(2 * capacity, kMaxRunPairs));
  const ExpertModelShape& shape = store_->shape();
  x_ = backend_->NewTensor(activation_dtype_, {grown, shape.hidden_size});
  mid_ = backend_->NewTensor(activation_dtype_, {grown, shape.intermediate_size});
  y_ = backend_->NewTensor(activation_dtype_, {grown, shape.hidden_size});
}

}  // namespace m1
