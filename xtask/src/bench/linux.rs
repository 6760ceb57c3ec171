//! The Linux kernel to compare with: given as a file, or Debian's cloud kernel fetched with apt. Both are turned into the
//! ELF file that QEMU boots by PVH.

use crate::{paths, process};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The package whose dependency is the current cloud kernel of this Debian.
const META_PACKAGE: &str = "linux-image-cloud-amd64";

/// A bootable kernel, and what to call it.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// The ELF file.
    pub vmlinux: PathBuf,
    /// The package or the file that it comes from.
    pub origin: String,
}

/// Debian's cloud kernel, fetched once into `target/bench`.
///
/// # Errors
/// There is no apt, no network, or the image is compressed in another way.
pub fn from_debian() -> Result<Kernel> {
    for (tool, package) in [("apt-cache", "apt"), ("apt-get", "apt"), ("dpkg-deb", "dpkg")] {
        if !process::installed(tool) {
            bail!("`{tool}` is missing (Debian's package `{package}`): give a kernel with --linux FILE");
        }
    }
    let depends = process::answer("apt-cache", &["depends", META_PACKAGE]).unwrap_or_default();
    let package = image_package(&depends).with_context(|| {
        format!("apt knows no {META_PACKAGE}: run `apt-get update`, or give a kernel with --linux FILE")
    })?;
    let folder = paths::target().join("bench");
    let vmlinux = folder.join(format!("{package}.vmlinux"));
    let origin = format!("Debian's {package}");
    if vmlinux.is_file() {
        return Ok(Kernel { vmlinux, origin });
    }
    let scratch = folder.join(&package);
    std::fs::create_dir_all(&scratch).with_context(|| format!("cannot make {}", scratch.display()))?;
    let mut fetch = Command::new("apt-get");
    fetch.args(["download", &package]).current_dir(&scratch);
    process::quietly(&format!("fetching {package}"), &mut fetch, false)?;
    let archive = only_file(&scratch, "", ".deb")?;
    let mut unpack = Command::new("dpkg-deb");
    unpack.arg("-x").arg(&archive).arg(&scratch);
    process::quietly("unpacking it", &mut unpack, false)?;
    let image = only_file(&scratch.join("boot"), "vmlinuz-", "")?;
    std::fs::write(&vmlinux, elf_of(&read(&image)?)?)?;
    std::fs::remove_dir_all(&scratch)?;
    Ok(Kernel { vmlinux, origin })
}

/// A kernel of the caller's: an ELF file, or a bzImage compressed with LZ4.
///
/// # Errors
/// It cannot be read or is neither.
pub fn from_file(path: &Path) -> Result<Kernel> {
    let data = read(path)?;
    let origin = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if data.starts_with(b"\x7fELF") {
        return Ok(Kernel { vmlinux: path.to_path_buf(), origin });
    }
    let folder = paths::target().join("bench");
    std::fs::create_dir_all(&folder)?;
    let vmlinux = folder.join(format!("{origin}.vmlinux"));
    std::fs::write(&vmlinux, elf_of(&data).with_context(|| path.display().to_string())?)?;
    Ok(Kernel { vmlinux, origin })
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// The package `linux-image-VERSION` in what `apt-cache depends` prints.
fn image_package(depends: &str) -> Option<String> {
    depends.lines().find_map(|line| {
        let name = line.trim().strip_prefix("Depends: ")?;
        let version = name.strip_prefix("linux-image-")?;
        version.starts_with(|c: char| c.is_ascii_digit()).then(|| name.to_owned())
    })
}

fn only_file(folder: &Path, start: &str, end: &str) -> Result<PathBuf> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut found = entries.filter_map(Result::ok).map(|entry| entry.path()).filter(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.starts_with(start) && name.ends_with(end) && path.is_file()
    });
    found.next().with_context(|| format!("{} holds no {start}*{end}", folder.display()))
}

/// The compressed kernel inside a bzImage, unpacked. The header's fields are those of Linux's
/// Documentation/arch/x86/boot.rst: setup_sects, payload_offset, payload_length.
fn elf_of(image: &[u8]) -> Result<Vec<u8>> {
    let word =
        |at: usize| image.get(at..at + 4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize);
    if image.get(0x202..0x206) != Some(b"HdrS") {
        bail!("neither an ELF file nor a bzImage");
    }
    let sectors = image.get(0x1f1).map_or(0, |&n| usize::from(n));
    let (offset, length) = (word(0x248).unwrap_or(0), word(0x24c).unwrap_or(0));
    let start = (sectors + 1) * 512 + offset;
    let payload = image.get(start..start.saturating_add(length)).context("the bzImage is cut short")?;
    let Some(blocks) = payload.strip_prefix(&[0x02, 0x21, 0x4c, 0x18]) else {
        bail!("the bzImage is not compressed with LZ4: unpack it (extract-vmlinux) and give the ELF file");
    };
    // The last four bytes are the unpacked size.
    let blocks = blocks.get(..blocks.len().saturating_sub(4)).unwrap_or_default();
    let elf = unpack_with_lz4(blocks)?;
    if !elf.starts_with(b"\x7fELF") {
        bail!("what the bzImage holds is not an ELF file");
    }
    Ok(elf)
}

/// The blocks of an LZ4 legacy frame: each a length and that many compressed bytes.
fn unpack_with_lz4(mut blocks: &[u8]) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    while let Some((length, rest)) = blocks.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*length) as usize;
        let block = rest.get(..length).context("an LZ4 block is cut short")?;
        unpack_block(block, &mut out).context("an LZ4 block makes no sense")?;
        blocks = rest.get(length..).unwrap_or_default();
    }
    Ok(out)
}

/// One LZ4 block (lz4_Block_format.md): sequences of literals and of copies from what is out already.
fn unpack_block(block: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let from = out.len();
    let mut rest = block;
    loop {
        let token = take(&mut rest, 1)?[0];
        let literals = length(&mut rest, token >> 4)?;
        out.extend_from_slice(take(&mut rest, literals)?);
        if rest.is_empty() {
            return Some(());
        }
        let distance = take(&mut rest, 2)?;
        let distance = usize::from(u16::from_le_bytes([distance[0], distance[1]]));
        let copied = length(&mut rest, token & 15)? + 4;
        let start = out.len().checked_sub(distance).filter(|&start| start >= from && distance > 0)?;
        for at in start..start + copied {
            out.push(*out.get(at)?);
        }
    }
}

fn take<'a>(rest: &mut &'a [u8], n: usize) -> Option<&'a [u8]> {
    let (taken, after) = rest.split_at_checked(n)?;
    *rest = after;
    Some(taken)
}

/// A length of four bits in the token; 15 goes on in bytes, of which 255 goes on again.
fn length(rest: &mut &[u8], bits: u8) -> Option<usize> {
    let mut total = usize::from(bits);
    let mut more = bits == 15;
    while more {
        let byte = take(rest, 1)?[0];
        total += usize::from(byte);
        more = byte == 255;
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_package_is_found_in_apts_answer() {
        let text = "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-9-cloud-amd64\n  Suggests: x\n";
        assert_eq!(image_package(text).as_deref(), Some("linux-image-6.1.0-9-cloud-amd64"));
        assert_eq!(image_package("  Depends: linux-image-cloud"), None);
    }

    #[test]
    fn lz4_blocks_are_unpacked() {
        // Two literals, then four bytes copied from two back, then one literal.
        let block = [0x20, b'a', b'b', 2, 0, 0x10, b'c'];
        let mut frame = (block.len() as u32).to_le_bytes().to_vec();
        frame.extend(block);
        assert_eq!(unpack_with_lz4(&frame).unwrap(), b"abababc");
        let mut long = vec![0xf0, 1];
        long.extend([7; 16]);
        let mut out = Vec::new();
        unpack_block(&long, &mut out).unwrap();
        assert_eq!(out, [7; 16]);
    }

    #[test]
    fn broken_images_are_refused() {
        assert!(unpack_with_lz4(&[9, 0, 0, 0, 1]).is_err());
        assert!(unpack_block(&[0x10, b'a', 5, 0], &mut Vec::new()).is_none());
        assert!(unpack_block(&[], &mut Vec::new()).is_none());
        assert!(elf_of(b"short").is_err());
        assert!(elf_of(&[0; 4096]).is_err());
    }
}
