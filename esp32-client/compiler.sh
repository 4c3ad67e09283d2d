# Sourced by `build` and `qemu/run`: which compiler builds for the chips. RUST_STD holds what cargo is told beside.
#
# Where rustup has the targets (rustup target add riscv32imc-unknown-none-elf riscv32imac-unknown-none-elf), nothing special; else the one
# that `toolchain` brings, which builds the library itself. ESP_TOOLCHAIN=debian takes that one in any case.
esp32_client=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

for program in cargo clang cmake; do
    command -v "$program" >/dev/null || {
        echo "missing: $program; on Debian: apt-get install clang libclang-dev cmake make; Rust by rustup" >&2
        exit 2
    }
done

# mbedTLS is compiled by clang, whatever C compiler for chips there is; so is what else is C.
export CC_riscv32imc_unknown_none_elf=clang CC_riscv32imac_unknown_none_elf=clang
RUST_STD=()
riscv_compiler() {
    local target=$1
    if [ "${ESP_TOOLCHAIN:-}" != debian ] && command -v rustup >/dev/null &&
        (cd "$esp32_client" && rustup target list --installed 2>/dev/null) | grep -qx "$target"; then
        return
    fi
    # The linker is that of the Rust that builds Nightjar.
    local sysroot
    sysroot=$(cd "$esp32_client" && rustc --print sysroot)
    PATH=$PATH:$(dirname "$(find "$sysroot/lib/rustlib" -name rust-lld -path '*/bin/*' | head -n 1)")
    command -v rust-lld >/dev/null || {
        echo "there is no rust-lld in $sysroot" >&2
        exit 2
    }
    RUSTC=$("$esp32_client/toolchain" -q "$esp32_client/target/toolchain") || exit 2
    export PATH RUSTC RUSTC_BOOTSTRAP=1
    RUST_STD=(-Zbuild-std=core,alloc)
}
