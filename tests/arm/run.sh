#!/bin/bash
# Arm under emulation: the runtime in both languages, the plugin and the recorded networks, on an x86-64 Debian with qemu-user.
#
#   ARM_CACHE=DIR tests/arm/run.sh [STAGE...]        stages: setup runtime plugin golden scenes tests judge (all, in this order)
#
# DIR keeps everything between runs (1.5 GB): an arm64 root of .deb files, wheels, builds, bundles, outputs, logs. Nothing is installed
# but the emulator and the cross compiler, and no chroot is used: apt install qemu-user g++-aarch64-linux-gnu cmake ninja-build
# Not part of `make test`: emulation takes a minute for an image of MobileNetV2 at 256 pixels and a quarter of an hour for ResNet-50.
#
#   HOST_PYTHON           the host's Python, with "mcar-edge[build]" (python3)
#   ARM_CPU               what is emulated (neoverse-n1: Armv8.2 with dot products, as Orin's Cortex-A78AE); see qemu-aarch64 -cpu help
#   ARM_NICE              of all that takes long (19)
#   ARM_CASES             recorded networks (the two at 256 pixels), all of tests/golden by name
#   ARM_IMAGES            of each recorded network (2, all there are)
#   ARM_SCENES            int8 is judged on so many test scenes (200)
#   PYTEST                words for pytest in `tests` (tests/cpp)
#   TENSORRT_INCLUDE_DIR  folders of TensorRT's headers, separated by colons, for `plugin` and the C++ tools of TensorRT
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
repository=$(cd "$here/../.." && pwd)
cache=$(mkdir -p "${ARM_CACHE:?a folder that is kept}" && cd "$ARM_CACHE" && pwd)
cpu=${ARM_CPU:-neoverse-n1} nice=${ARM_NICE:-19}
cases=${ARM_CASES:-mobilenetv2_avg_256_top4_thr0.5_c20 resnet50_avg_256_top4_thr0.5_c20}
images=${ARM_IMAGES:-2} scenes=${ARM_SCENES:-200}
host_python=$(command -v "${HOST_PYTHON:-python3}")
root=$cache/root site=$cache/site build=$cache/build logs=$cache/logs found=$cache/found-$cpu
export ARM_ROOT=$root ARM_FIND=$cache/cuda/nvidia/cu13 PYTHONDONTWRITEBYTECODE=1 # for toolchain.cmake: Debian, and CUDA for Arm
mkdir -p "$build" "$logs" "$found"

run=(nice -n "$nice" qemu-aarch64 -cpu "$cpu" -L "$root" -E OMP_NUM_THREADS=1 -E OPENBLAS_NUM_THREADS=1 -E OPENBLAS_CORETYPE=NEOVERSEN1)
arm_python() { "$cache/python" "$@"; }
host() { OMP_NUM_THREADS=1 PYTHONPATH=$repository nice -n "$nice" "$host_python" "$@"; }

setup() { # the arm64 Debian packages and wheels
    local apt=$cache/apt platforms=(--platform manylinux2014_aarch64) minor
    if [ ! -e "$root/done" ]; then
        mkdir -p "$apt"/{lists,archives}/partial "$apt"/etc/{apt.conf,preferences}.d "$root"
        : >"$apt/status"
        # The host's own mirror, without its other sources.
        apt-get indextargets --format 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $(REPO_URI) $(CODENAME) main' \
            'Created-By: Packages' 'Origin: Debian' 'Component: main' | grep -v -e '-updates' -e '-security' | sort -u >"$apt/etc/sources.list"
        cat >"$apt/apt.conf" <<CONF
APT::Architecture "arm64"; APT::Architectures { "arm64"; }; APT::Install-Recommends "false"; APT::Sandbox::User "root";
Dir::State "$apt"; Dir::State::Lists "$apt/lists"; Dir::State::status "$apt/status"; Dir::Cache "$apt"; Dir::Etc "$apt/etc";
Debug::NoLocking "true";
CONF
        APT_CONFIG=$apt/apt.conf apt-get update
        APT_CONFIG=$apt/apt.conf apt-get install -y --download-only python3 libjpeg62-turbo-dev libpng-dev libssl-dev nlohmann-json3-dev \
            libc6-dev libstdc++-12-dev libgomp1
        for package in "$apt"/archives/*.deb; do dpkg-deb -x "$package" "$root"; done
        rm -r "$apt"
        touch "$root/done"
    fi
    if [ ! -e "$site/done" ]; then
        for minor in 17 24 26 27 28 31 34 35 36; do platforms+=(--platform "manylinux_2_${minor}_aarch64"); done
        local pip=("$host_python" -m pip install --no-cache-dir --quiet --implementation cp --python-version 3.11 --only-binary=:all:
            "${platforms[@]}")
        # ONNX Runtime 1.32 ends with an illegal instruction here; 1.23 is also the last for the Python 3.10 of JetPack 6.
        "${pip[@]}" --target "$site" numpy pillow "openvino>=2026" onnxruntime==1.23.2 onnx pytest
        "${pip[@]}" --target "$cache/cuda" --no-deps "nvidia-cuda-runtime==13.0.*"
        touch "$site/done"
    fi
    printf '#!/bin/sh\nexec %s -E PYTHONHOME=%s -E PYTHONPATH=%s -E PYTHONDONTWRITEBYTECODE=1 -E PYTHONUNBUFFERED=1 %s "$@"\n' "${run[*]}" "$root/usr" \
        "$repository:$site:$here" "$root/usr/bin/python3.11" >"$cache/python"
    chmod +x "$cache/python"
    arm_python -c "import numpy, onnxruntime, openvino; print(numpy.__version__, onnxruntime.__version__, openvino.__version__)"
}

configure() { # configure SOURCE FOLDER DEFINITION...
    local source=$1 folder=$2
    shift 2
    nice -n "$nice" cmake -S "$source" -B "$folder" -DCMAKE_TOOLCHAIN_FILE="$here/toolchain.cmake" -DCMAKE_BUILD_TYPE=Release \
        -DCMAKE_CXX_FLAGS_RELEASE=-O2 "$@"
    nice -n "$nice" cmake --build "$folder" -j1
}

headers() { tr : '\n' <<<"${TENSORRT_INCLUDE_DIR:-}" | sed '/^$/d'; }
cuda_include() { # of the host's toolkit: headers are the same for every processor
    for each in "$(dirname "$(dirname "$(nvcc --dryrun -c none.cu 2>&1 | sed -n 's/^#\$ TOP=//p')")")"/{cuda*,.}/include "$cache"/cuda/nvidia/cu13/include; do
        if [ -e "$each/cuda_fp16.h" ]; then echo "$each" && return; fi
    done
    echo "no cuda_fp16.h beside nvcc: install a CUDA toolkit" >&2 && return 1
}

runtime() { # the C++ runtime and tools: with OpenVINO whole; with TensorRT linked with nothing behind its names
    configure "$repository/edge/cpp" "$build/runtime" -DOpenVINO_DIR="$site/openvino/cmake"
    local one folder cuda=$cache/cuda/nvidia/cu13/lib
    ln -sf libcudart.so.13 "$cuda/libcudart.so"
    for one in nvinfer nvonnxparser; do
        aarch64-linux-gnu-g++ --sysroot="$root" -shared -fPIC "$here/tensorrt.cpp" -o "$build/lib$one.so"
    done
    for one in $(headers); do
        folder=$build/tensorrt-$(basename "$one")
        configure "$repository/edge/cpp" "$folder" -DMCAR_EDGE_BACKENDS=tensorrt -DTENSORRT_INCLUDE_DIR="$one" \
            -DTENSORRT_LIBRARY="$build/libnvinfer.so" -DTENSORRT_PARSER="$build/libnvonnxparser.so"
        "${run[@]}" -E LD_LIBRARY_PATH="$build:$cuda" "$folder/tools/mcar_edge_build" --version
    done
}

plugin() { # the plugin for Orin, its methods called under emulation
    local one name include out=$build/plugin
    include=$(cuda_include)
    mkdir -p "$out"
    nice -n "$nice" nvcc -std=c++17 -ccbin aarch64-linux-gnu-g++ -arch=sm_87 -I"$repository/kernels" -I"$include" -Xcompiler -fPIC \
        -c "$repository/kernels/launch.cu" -o "$out/launch.o"
    for one in $(headers); do
        name=$(basename "$one")
        local flags=(--sysroot="$root" -std=c++17 -O1 -Wall -Wextra -Werror -I"$repository/kernels" -isystem"$one" -isystem"$include")
        nice -n "$nice" aarch64-linux-gnu-g++ "${flags[@]}" -fPIC -shared -Wl,--version-script="$repository/kernels/plugin/exports.map" \
            -Wl,--no-undefined "$repository/kernels/plugin/exports.cpp" "$out/launch.o" -L"$cache/cuda/nvidia/cu13/lib" -lcudart_static \
            -lpthread -ldl -lrt -o "$out/libedge_plugin-$name.so"
        arm_python -c "import ctypes, sys; ctypes.CDLL(sys.argv[1])" "$out/libedge_plugin-$name.so"
        nice -n "$nice" aarch64-linux-gnu-g++ "${flags[@]}" "$repository"/tests/kernels/plugin_host.cpp \
            "$repository/kernels/plugin/exports.cpp" -ldl -o "$out/host-$name"
        echo "plugin for the headers $name: $("${run[@]}" "$out/host-$name" | tail -1)"
    done
}

infer() { # infer CASE BACKEND COUNT: Python rebuilds and runs, then C++ runs the same bundle where its backend is built in
    local case=$cache/cases/$1 out=$found/$1
    mkdir -p "$out"
    arm_python "$here/infer.py" "$case/$2" "$case/images.bin" "$out/$2" "$3"
    if [ "$2" = openvino ] && [ "${1#scenes}" = "$1" ] && [ ! -e "$out/$2-cpp.npz" ]; then
        QEMU_SET_ENV=LD_LIBRARY_PATH=$site/openvino/libs arm_python "$here/native.py" "$build/runtime/libmcar_edge.so" "$out/$2" \
            "$case/images.bin" "$out/$2-cpp.npz" "$3"
    fi
}

golden() { # recorded networks, fp32
    host "$here/prepare.py" "$cache/cases" $cases
    for case in $cases; do
        infer "$case" openvino "$images"
        infer "$case" onnxruntime "$images"
    done
}

scenes() { # int8 of the shipped MobileNetV2
    for backend in openvino onnxruntime; do
        host "$here/prepare.py" "$cache/cases" "scenes-int8-$backend-$scenes"
        infer "scenes-int8-$backend-$scenes" $backend "$scenes"
    done
}

tests() { # the tests of the C++ runtime, in the emulated Python; bundles come from the host
    printf '#!/bin/sh\nexec aarch64-linux-gnu-g++ --sysroot=%s "$@"\n' "$root" >"$cache/g++"
    chmod +x "$cache/g++"
    # A linker for another processor does not follow the rpath of the runtime's library to OpenVINO's. And a search for leaks stops
    # the program's threads, which an emulator does not allow.
    (cd "$repository" && ASAN_OPTIONS=detect_leaks=0 LDFLAGS=-Wl,-rpath-link,$site/openvino/libs \
        ARM_RUN="${run[*]} -E LD_LIBRARY_PATH=$site/openvino/libs" ARM_PYTHON=$cache/python HOST_PYTHON=$host_python \
        HOST_PYTHONPATH=$repository CXX=$cache/g++ CMAKE_TOOLCHAIN_FILE=$here/toolchain.cmake EDGE_CPP_BUILDS=$build/tests \
        arm_python -m pytest -p emulated -p no:cacheprovider ${PYTEST:-tests/cpp})
}

judge() { host "$here/compare.py" "$cache/cases" "$found" "$cache/report-$cpu.json"; }

[ $# -gt 0 ] || set -- setup runtime plugin golden scenes tests judge
for stage; do
    case $stage in
    setup | runtime | plugin | golden | scenes | tests | judge) ;;
    *) echo "there is no stage $stage" >&2 && exit 2 ;;
    esac
    echo "== $stage, $(date +%T)"
    "$stage" 2>&1 | tee "$logs/$stage.log"
done
