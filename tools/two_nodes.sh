#!/usr/bin/env bash
# Runs the tests of threads and placement, and a small model, on an emulated machine with two memory nodes, two cores each.
# Usage: tools/two_nodes.sh [TEST_DATA_MODEL]. Needs qemu-system-x86_64, cpio, mkfs.ext4 and Debian's apt-get, which downloads a kernel and
# a static busybox into build/two_nodes (nothing is installed). Takes a minute; not part of ./test.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
model=${1:-tests/data/goldens/widths/b4_g64_tied_bf16}
work=build/two_nodes
built=build/release
for tool in qemu-system-x86_64 cpio mkfs.ext4 apt-get dpkg; do
  command -v "$tool" >/dev/null || { echo "error: $tool is not installed" >&2; exit 1; }
done
[[ -d $model ]] || { echo "error: $model is not there" >&2; exit 1; }
tools/build.sh release bumblebee base_test backend_test

mkdir -p "$work/packages"
if [[ ! -e $work/vmlinuz ]]; then
  kernel=$(apt-cache depends linux-image-cloud-amd64 linux-image-amd64 2>/dev/null | sed -n 's/.*Depends: \(linux-image-[0-9][^ ]*\).*/\1/p' | head -1)
  [[ $kernel == *cloud* ]] || kernel=${kernel%-amd64}-cloud-amd64
  (cd "$work/packages" && apt-get download "$kernel" busybox-static >/dev/null 2>&1 && for p in ./*.deb; do dpkg -x "$p" unpacked; done)
  cp "$work"/packages/unpacked/boot/vmlinuz-* "$work/vmlinuz"
fi

root=$work/root
rm -rf "$root"
mkdir -p "$root"/{bin,dev,proc,sys,tmp,run,lib64}
cp "$work/packages/unpacked/bin/busybox" "$root/bin/"
ln -s busybox "$root/bin/sh"
programs=("$built/tests/base/base_test" "$built/tests/backend/backend_test" "$built/bumblebee")
cp "${programs[@]}" "$root/run/"
cp -rL "$model" "$root/run/model"
ldd "${programs[@]}" | grep -o '/[^ :]*' | sort -u | while read -r library; do
  [[ -f $library && $library != *"$built"* ]] || continue
  mkdir -p "$root$(dirname "$library")"
  cp -L "$library" "$root$library"
done
cat >"$root/init" <<'INIT'
#!/bin/sh
b=/bin/busybox
$b mount -t proc proc /proc; $b mount -t sysfs sys /sys; $b mount -t devtmpfs dev /dev
$b mount -t ext4 /dev/nvme0n1 /tmp || echo "FAILED: no disk"
cd /run
$b cp -r model /tmp/model
./bumblebee doctor --no-bandwidth || echo "FAILED: doctor"
./base_test --gtest_brief=1 --gtest_color=no --gtest_filter='ThreadPool.*:Placement.*:Topology.*:WholePages.*' || echo "FAILED: base_test"
./backend_test --gtest_brief=1 --gtest_color=no --gtest_filter='PlacementOfWeights.*:RowPartition.*' || echo "FAILED: backend_test"
for threads in 1 2 4; do
  BB_CPU=scalar ./bumblebee logits -m /tmp/model --tokens 1,2,3,4,5 --precision exact -t $threads -o /tmp/l$threads || echo "FAILED: logits"
done
echo "logits $($b sha256sum </tmp/l1 | $b cut -c-64) of one thread"
$b cmp /tmp/l1 /tmp/l2 && $b cmp /tmp/l1 /tmp/l4 && echo "logits of 1, 2 and 4 threads are equal" || echo "FAILED: logits differ"
echo FINISHED
$b poweroff -f
INIT
chmod +x "$root/init"
(cd "$root" && find . | cpio --quiet -o -H newc | gzip -1) >"$work/initrd.gz"
rm -f "$work/disk"
truncate -s 128M "$work/disk"
mkfs.ext4 -q -F "$work/disk"

timeout 300 qemu-system-x86_64 -accel tcg,thread=multi -cpu max -m 1G -smp 4,sockets=2,cores=2 \
  -object memory-backend-ram,id=m0,size=512M -object memory-backend-ram,id=m1,size=512M \
  -numa node,nodeid=0,cpus=0-1,memdev=m0 -numa node,nodeid=1,cpus=2-3,memdev=m1 -numa dist,src=0,dst=1,val=21 \
  -drive "file=$work/disk,format=raw,if=none,id=d" -device nvme,serial=d,drive=d \
  -kernel "$work/vmlinuz" -initrd "$work/initrd.gz" -append "console=ttyS0 quiet panic=-1" \
  -display none -serial stdio -nic none -no-reboot </dev/null | tee "$work/log"
BB_CPU=scalar "$built/bumblebee" logits -m "$model" --tokens 1,2,3,4,5 --precision exact -t 1 -o "$work/logits" >/dev/null
grep -q "$(sha256sum <"$work/logits" | cut -c-64)" "$work/log" || { echo "error: the emulated machine's logits are not this one's" >&2; exit 1; }
if grep -q FAILED "$work/log" || ! grep -q FINISHED "$work/log"; then
  echo "error: see $work/log" >&2
  exit 1
fi
