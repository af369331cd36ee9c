#!/bin/sh
# instructions.sh OBJDUMP ARCHIVE: integer and bfloat16 products of Armv8.2 and later are in the files
# that are compiled and chosen for them, each kind that is due there, and nowhere else.
set -eu
found=$("$1" -d --no-show-raw-insn "$2" | awk '
  /file format/ { file = $1 }
  $2 ~ /^(sdot|udot|usdot|sudot|[su]mmla|usmmla|bfdot|bfmmla|bfmlal[bt])$/ { seen[file " " $2] = 1 }
  END { for (key in seen) print key }' | sort)
expected='kernels_neon_dotprod.cpp.o: sdot
kernels_neon_i8mm.cpp.o: bfdot
kernels_neon_i8mm.cpp.o: sdot
kernels_neon_i8mm.cpp.o: usdot
kernels_neon_i8mm.cpp.o: usmmla'
[ "$found" = "$expected" ] && exit 0
printf '[kernels] product instructions of %s: expected\n%s\nfound\n%s\n' "$2" "$expected" "$found" >&2
exit 1
