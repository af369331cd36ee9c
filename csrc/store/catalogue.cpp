#include "store/catalogue.h"

#include <algorithm>

#include "base/error.h"
#include "io/readers.h"
#include "store/read_plan.h"

namespace moeflux::store {

Catalogue::Catalogue(std::vector<std::shared_ptr<io::File>> files, std::vector<LayerExperts> layers)
    : files_(std::move(files)), layers_(std::move(layers)) {
  for (const LayerExperts& layer : layers_) {
    check(layer);
    max_experts_ = std::max(max_experts_, layer.n_experts);
    reads_.push_back(plan_reads(layer, files_));
  }
  for (const std::vector<Part>& reads : reads_) {
    std::vector<Piece>& pieces = pieces_.emplace_back();
    for (const Part& read : reads)
      for (uint64_t begin = 0, step = io::piece_bytes(read.unit_bytes()); begin < read.nbytes;
           begin += step)
        pieces.push_back({&read, begin, std::min(step, read.nbytes - begin)});
  }
}

void Catalogue::check(const LayerExperts& layer) const {
  for (const Part& part : layer.parts) {
    if (part.file.size() != layer.n_experts || part.offset.size() != layer.n_experts)
      throw FormatError("[store::ExpertStore] expected a range for each of ", layer.n_experts,
                        " experts");
    for (uint32_t expert = 0; expert < layer.n_experts; ++expert) {
      if (part.file[expert] >= files_.size())
        throw FormatError("[store::ExpertStore] no file of index ", part.file[expert]);
      const io::File& file = *files_[part.file[expert]];
      if (part.offset[expert] > file.size() || part.nbytes > file.size() - part.offset[expert])
        throw FormatError("[store::ExpertStore] expert range ends behind the file: expected ",
                          part.nbytes, " bytes at ", part.offset[expert], ", file has ",
                          file.size(), " (", file.path(), ")");
    }
  }
}

// Reads are parts or several in one, apart in the slot: each ends with one short piece at most.
uint64_t Catalogue::max_pieces(const LayerExperts& layer) {
  uint64_t pieces = layer.parts.size() + layer.slot_bytes() / io::kPieceBytes;
  for (const Part& part : layer.parts)
    if (part.blocks) pieces += part.nbytes / io::piece_bytes(part.unit_bytes());
  return pieces;
}

size_t Catalogue::n_keys(const std::vector<LayerExperts>& layers) {
  size_t widest = 0;
  for (const LayerExperts& layer : layers) widest = std::max<size_t>(widest, layer.n_experts);
  return layers.size() * widest;
}

// Ranges on disk, what is read of them, and the pieces of each read.
uint64_t Catalogue::bytes(const std::vector<LayerExperts>& layers) {
  uint64_t ranges = 0, pieces = 0;
  for (const LayerExperts& layer : layers) {
    for (const Part& part : layer.parts)
      ranges += sizeof(Part) + part.file.size() * sizeof(uint32_t) +
                part.offset.size() * sizeof(uint64_t);
    pieces += max_pieces(layer);
  }
  return 2 * ranges + pieces * sizeof(Piece);
}

int64_t Catalogue::key_of(uint32_t layer, uint32_t expert) const {
  if (layer >= layers_.size() || expert >= layers_[layer].n_experts)
    throw FormatError("[store::ExpertStore] no expert ", expert, " in layer ", layer);
  return int64_t(layer) * max_experts_ + expert;
}

uint64_t Catalogue::read_bytes(int64_t key) const {
  uint64_t nbytes = 0;
  for (const Part& read : reads_[layer_of(key)]) nbytes += read.nbytes;
  return nbytes;
}

void Catalogue::read(int64_t key, const Piece& piece, std::byte* slot, std::byte* bounce) const {
  const Part& read = *piece.read;
  const uint32_t expert = expert_of(key);
  io::File& file = *files_[read.file[expert]];
  const uint64_t offset = read.offset[expert] + piece.begin, unit = read.unit_bytes();
  std::byte* to = slot + read.slot_offset;
  if (!read.blocks) return io::read_exact(file, offset, {to + piece.begin, piece.nbytes}, bounce);
  io::read_units(file, offset, piece.nbytes, unit, bounce, [&](uint64_t begin, auto blocks) {
    quant::transcode(*read.blocks, blocks, (piece.begin + begin) / unit, to, kPartAlignment);
  });
}

const std::string& Catalogue::first_path(int64_t key) const {
  const Part& part = layers_[layer_of(key)].parts.front();
  return files_[part.file[expert_of(key)]]->path();
}

}  // namespace moeflux::store
