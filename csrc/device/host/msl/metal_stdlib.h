// <metal_stdlib> of the host device: the part of it that shaders/ may use.
#pragma once
#include "device/host/msl/arguments.h"
#include "device/host/msl/math.h"
#include "device/host/msl/simdgroup_matrix.h"
#include "device/host/msl/synchronisation.h"
#include "device/host/msl/vector.h"
