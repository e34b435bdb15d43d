#!/usr/bin/env bash
# Builds what the tests with real GPIO lines need, into .tools/gpio-vm: a Debian kernel (vmlinuz) and modules for it,
# configfs.ko and e1000.ko (a network card) as Debian ships them, and gpio-sim.ko, which Debian does not build, from
# Debian's source of the same kernel. The tests boot them in qemu, without /dev/kvm. Nothing of the kernel's packages is
# installed on this machine: they are unpacked into a temporary directory and only these files stay. Does nothing where
# they are there.
set -euo pipefail
cd "$(dirname "$0")/.."
out=.tools/gpio-vm

PATH="$PATH:/usr/sbin:/sbin"
packages=()
need() { # need PACKAGE TEST...: the package is needed where the test command fails
	local package=$1
	shift
	"$@" >/dev/null 2>&1 || packages+=("$package")
}
need qemu-system-x86 command -v qemu-system-x86_64
build=no
for file in vmlinuz configfs.ko e1000.ko gpio-sim.ko; do
	[ -f $out/$file ] || build=yes
done
if [ $build = yes ]; then
	echo "building a machine with GPIO lines for the tests: qemu, Debian's kernel, gpio-sim (up to 300 MB to fetch, half a minute, once)"
	# The compiler is the one that Debian's kernel headers name; objtool among them needs libelf.
	need gcc-12 command -v gcc-12
	need make command -v make
	need xz-utils command -v xz
	need libelf1 sh -c 'ldconfig -p | grep libelf.so.1'
elif [ ${#packages[@]} -gt 0 ]; then
	echo "installing for the tests with GPIO lines: ${packages[*]}"
else
	exit 0
fi

mkdir -p .tools
work=$(mktemp -d "$PWD/.tools/gpio-vm.XXXXXX")
log=$work/log
doing="start"
finish() {
	local status=$?
	if [ $status -ne 0 ]; then
		[ ! -s "$log" ] || tail -20 "$log" >&2
		echo "tools/gpio-vm.sh: cannot $doing; the tests with GPIO lines need it" >&2
	fi
	rm -rf "$work"
}
trap finish EXIT

doing="build the test machine: only Debian on amd64 is supported"
[ "$(dpkg --print-architecture)" = amd64 ]
doing="install packages: not root, and there is no sudo"
sudo=
if [ "$(id -u)" -ne 0 ]; then
	sudo=$(command -v sudo)
fi
# Always fresh lists: Debian's archive drops superseded kernels.
doing="refresh apt's lists"
$sudo apt-get update >>"$log" 2>&1
if [ ${#packages[@]} -gt 0 ]; then
	doing="install ${packages[*]} with apt-get"
	$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${packages[@]}" >>"$log" 2>&1
fi
[ $build = yes ] || exit 0

# The metapackage names the current kernel. Image, headers and source must be of one version: the module's symbol
# versions are checked when it is loaded. The cloud flavour would be smaller but has no GPIO at all.
doing="find Debian's kernel (linux-image-amd64)"
field() { apt-cache show --no-all-versions "$1" 2>>"$log" | sed -n "s/^$2: //p"; }
image=$(field linux-image-amd64 Depends | grep -o '^linux-image-[^ ,]*')
release=${image#linux-image-}             # such as 6.1.0-56-amd64
version=$(field "$image" Version)         # such as 6.1.192-2
series=$(echo "$version" | cut -d. -f1,2) # such as 6.1
headers=linux-headers-$release
common=linux-headers-${release%-amd64}-common
kbuild=linux-kbuild-$series
source=linux-source-$series

doing="download the packages of kernel $version"
cd "$work"
mkdir kernel module done
fetch() { apt-get -o APT::Sandbox::User=root download "$1" >>"$log" 2>&1; }
for package in "$image" "$headers" "$common" "$source"; do
	fetch "$package=$version"
done
# The build tools are programs for this machine; any version of the series builds the same module. Debian's archive has
# only the newest, which for some days can be newer than the kernel, whose signing takes longer.
fetch "$kbuild=$version" || fetch "$kbuild"

doing="unpack the packages of kernel $version"
unpack() { dpkg-deb --fsys-tarfile "$1"_*.deb 2>>"$log"; }
modules=lib/modules/$release/kernel
unpack "$image" | tar -x -C kernel "./boot/vmlinuz-$release" "./$modules/fs/configfs/configfs.ko" \
	"./$modules/drivers/net/ethernet/intel/e1000/e1000.ko" 2>>"$log"
for package in "$headers" "$common" "$kbuild"; do
	unpack "$package" | tar -x -C kernel 2>>"$log"
done
unpack "$source" | tar -xO "./usr/src/$source.tar.xz" | xz -dc | tar -x -C module --strip-components=3 \
	"$source/drivers/gpio/gpio-sim.c" "$source/drivers/gpio/gpiolib.h" "$source/kernel/irq/irq_sim.c" 2>>"$log"

# gpio-sim stands on irq_sim, which Debian's kernel lacks too, so both become one module. irq_sim was never meant to be a
# module: irq_to_desc is not exported to modules, but the way around it is.
doing="build gpio-sim for kernel $version"
mv module/gpio-sim.c module/main.c
printf 'obj-m := gpio-sim.o\ngpio-sim-y := main.o irq_sim.o\n' >module/Makefile
sed -i -e 's/\birq_to_desc(irqnum)/irq_data_to_desc(irq_get_irq_data(irqnum))/' \
	-e 's/#include <linux.irq.h>/&\n#include <linux\/irqdesc.h>/' module/irq_sim.c
sed -i "s#/usr/src#$work/kernel/usr/src#" "kernel/usr/src/$headers/Makefile"
make -C "kernel/usr/src/$headers" M="$work/module" modules >>"$log" 2>&1
strip --strip-debug -o done/gpio-sim.ko module/gpio-sim.ko
mv "kernel/$modules/fs/configfs/configfs.ko" "kernel/$modules/drivers/net/ethernet/intel/e1000/e1000.ko" done/
mv "kernel/boot/vmlinuz-$release" done/vmlinuz
cd "$OLDPWD"
rm -rf $out
mv "$work/done" $out
