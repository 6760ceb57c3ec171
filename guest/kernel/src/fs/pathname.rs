//! Path names as text: components, limits, trailing slashes. Pure: no kernel type appears here.
//!
//! A path is a byte string. Components are separated by one or more slashes; a path that ends in slashes asks for a
//! directory ("Pathname Resolution", path_resolution(7)).

/// Longest component, in bytes (`NAME_MAX`).
pub const NAME_MAX: usize = 255;
/// Longest path with its terminating NUL, in bytes (`PATH_MAX`).
pub const PATH_MAX: usize = 4096;
/// Symbolic links followed in one resolution before ELOOP (`MAXSYMLINKS`).
pub const LINKS_MAX: u32 = 40;

/// One component of a path, as positions in its text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Component {
    /// First byte of the name.
    pub start: usize,
    /// First byte after the name.
    pub end: usize,
    /// Where the rest of the path begins: after the slashes that follow the name.
    pub next: usize,
    /// No component follows.
    pub last: bool,
    /// Slashes follow the name.
    pub slash: bool,
}

/// The component that begins at or after `from`; `None` when only slashes (or nothing) remain.
#[inline]
pub fn component(text: &[u8], from: usize) -> Option<Component> {
    let mut start = from;
    while *text.get(start)? == b'/' {
        start += 1;
    }
    let mut end = start;
    while end < text.len() && text[end] != b'/' {
        end += 1;
    }
    let mut next = end;
    while next < text.len() && text[next] == b'/' {
        next += 1;
    }
    Some(Component { start, end, next, last: next == text.len(), slash: next > end })
}

/// The text after following a symbolic link: its target, then what was left of the path.
pub fn splice(target: &[u8], rest: &[u8], slash: bool) -> alloc::vec::Vec<u8> {
    let mut text = alloc::vec::Vec::with_capacity(target.len() + rest.len() + 1);
    text.extend_from_slice(target);
    if slash {
        text.push(b'/');
        text.extend_from_slice(rest);
    }
    text
}

/// A hash of a name, never 0: 8 bytes a step, because the kernel's own instructions are dear.
#[inline]
pub fn hash(name: &[u8]) -> u32 {
    let mut h: u64 = name.len() as u64;
    let mut chunks = name.chunks_exact(8);
    for chunk in &mut chunks {
        if let Ok(word) = <[u8; 8]>::try_from(chunk) {
            h = mix(h, u64::from_le_bytes(word));
        }
    }
    let mut tail = 0u64;
    for &b in chunks.remainder() {
        tail = tail << 8 | u64::from(b);
    }
    h = mix(h, tail);
    (h >> 32) as u32 | 1
}

#[inline]
fn mix(h: u64, word: u64) -> u64 {
    (h.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn parts(text: &str) -> Vec<(&str, bool, bool)> {
        let mut at = 0;
        let mut out = Vec::new();
        while let Some(c) = component(text.as_bytes(), at) {
            out.push((&text[c.start..c.end], c.last, c.slash));
            at = c.next;
        }
        out
    }

    #[test]
    fn components_come_with_what_follows_them() {
        assert_eq!(parts("a/b"), [("a", false, true), ("b", true, false)]);
        assert_eq!(parts("//a///b//"), [("a", false, true), ("b", true, true)]);
        assert_eq!(parts("/"), []);
        assert_eq!(parts("."), [(".", true, false)]);
    }

    #[test]
    fn a_link_puts_its_target_before_the_rest() {
        assert_eq!(splice(b"x/y", b"b/c", true), b"x/y/b/c");
        assert_eq!(splice(b"x", b"", false), b"x");
        assert_eq!(splice(b"x", b"", true), b"x/");
    }

    #[test]
    fn hashes_differ_by_length_and_by_bytes() {
        assert_ne!(hash(b"a"), hash(b"a\0"));
        assert_ne!(hash(b"abcdefgh"), hash(b"abcdefgi"));
        assert_ne!(hash(b""), 0);
    }
}
