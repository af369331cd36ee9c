// Catalogue: which experts there are, and what reading one takes. Does not change.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "io/file.h"
#include "store/layer_experts.h"

namespace moeflux::store {

class Catalogue {
 public:
  // What one reader reads in one go of an expert, so that several work on it side by side.
  struct Piece {
    const Part* read;
    uint64_t begin, nbytes;  // of the read
  };

  // Checks every range against the real file sizes. Throws FormatError.
  Catalogue(std::vector<std::shared_ptr<io::File>> files, std::vector<LayerExperts> layers);
  // Of its tables, at most.
  static uint64_t bytes(const std::vector<LayerExperts>& layers);
  static uint64_t max_pieces(const LayerExperts& layer);
  static size_t n_keys(const std::vector<LayerExperts>& layers);

  // An expert's key: below n_keys(). Throws FormatError when there is no such expert.
  int64_t key_of(uint32_t layer, uint32_t expert) const;
  uint32_t layer_of(int64_t key) const { return static_cast<uint32_t>(key / max_experts_); }
  uint32_t expert_of(int64_t key) const { return static_cast<uint32_t>(key % max_experts_); }
  size_t n_keys() const { return layers_.size() * size_t(max_experts_); }

  const std::vector<Piece>& pieces(int64_t key) const { return pieces_[layer_of(key)]; }
  uint64_t read_bytes(int64_t key) const;
  // Reads a piece to its place in a slot. Throws IoError.
  void read(int64_t key, const Piece& piece, std::byte* slot, std::byte* bounce) const;
  const std::string& first_path(int64_t key) const;  // of the file with its first part

 private:
  void check(const LayerExperts& layer) const;

  std::vector<std::shared_ptr<io::File>> files_;
  std::vector<LayerExperts> layers_;
  uint32_t max_experts_ = 0;                // of a layer
  std::vector<std::vector<Part>> reads_;    // by layer: what a miss reads
  std::vector<std::vector<Piece>> pieces_;  // the same, cut; points into reads_
};

}  // namespace moeflux::store
