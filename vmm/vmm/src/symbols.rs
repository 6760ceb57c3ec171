//! Names of guest kernel addresses, from the kernel's own symbol table.

use object::{Object, ObjectSection, ObjectSymbol, SectionKind, SymbolKind};
use std::fmt::Write;

/// Functions and other code labels of a kernel image, by address.
#[derive(Default)]
pub struct Symbols {
    /// `(address, size, name)`, sorted; size 0 when the image does not say.
    list: Vec<(u64, u64, String)>,
}

/// Farthest that an address may lie behind a symbol without a size. Bytes.
const REACH: u64 = 64 << 10;

impl Symbols {
    /// Reads the symbol table of an ELF image; empty when it has none or is no ELF.
    pub fn parse(image: &[u8]) -> Symbols {
        let Ok(file) = object::File::parse(image) else { return Symbols::default() };
        let is_code = |s: &object::Symbol<'_, '_>| {
            let section = s.section_index().and_then(|i| file.section_by_index(i).ok());
            section.is_some_and(|s| s.kind() == SectionKind::Text)
        };
        let mut list: Vec<_> = file
            .symbols()
            .filter(|s| !matches!(s.kind(), SymbolKind::Section | SymbolKind::File) && is_code(s))
            .filter_map(|s| {
                let name = s.name().ok().filter(|n| !n.is_empty())?;
                Some((s.address(), s.size(), format!("{:#}", rustc_demangle::demangle(name))))
            })
            .collect();
        // Of several names at one address the sized one says most: it is kept first.
        list.sort_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)));
        list.dedup_by_key(|s| s.0);
        Symbols { list }
    }

    /// Symbols made up for a test: `(address, size, name)`, sorted.
    #[cfg(test)]
    pub fn of(list: &[(u64, u64, &str)]) -> Symbols {
        Symbols { list: list.iter().map(|&(start, size, name)| (start, size, name.to_owned())).collect() }
    }

    /// The symbol that covers `address`, and the offset in it.
    pub fn find(&self, address: u64) -> Option<(&str, u64)> {
        let at = self.list.partition_point(|s| s.0 <= address);
        let (start, size, name) = self.list.get(at.checked_sub(1)?)?;
        let offset = address - start;
        let reach = if *size == 0 { REACH } else { *size };
        (offset < reach).then_some((name.as_str(), offset))
    }

    /// `address name+offset`, or the address alone.
    pub fn show(&self, address: u64) -> String {
        let mut text = format!("{address:#018x}");
        if let Some((name, offset)) = self.find(address) {
            let _ = write!(text, " {name}+{offset:#x}");
        }
        text
    }

    /// As [`Symbols::find`] for a return address: the call lies before it.
    pub fn show_return(&self, address: u64) -> String {
        match self.find(address.wrapping_sub(1)) {
            Some((name, offset)) => format!("{address:#018x} {name}+{:#x}", offset + 1),
            None => format!("{address:#018x}"),
        }
    }

    /// Whether `address` lies in a function that is known by name.
    pub fn knows(&self, address: u64) -> bool {
        self.find(address).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Symbols {
        Symbols::of(&[(0x1000, 0x10, "first"), (0x1010, 0, "label"), (0x90_0000, 8, "last")])
    }

    #[test]
    fn addresses_find_the_symbol_that_covers_them() {
        let symbols = sample();
        assert_eq!(symbols.find(0xfff), None);
        assert_eq!(symbols.find(0x1000), Some(("first", 0)));
        assert_eq!(symbols.find(0x100f), Some(("first", 15)));
        assert_eq!(symbols.find(0x1018), Some(("label", 8)));
        assert_eq!(symbols.find(0x8f_ffff), None, "too far behind a label");
        assert_eq!(symbols.find(0x90_0008), None);
        assert_eq!(symbols.show_return(0x1010), "0x0000000000001010 first+0x10");
        assert_eq!(Symbols::default().show(1), "0x0000000000000001");
    }

    #[test]
    fn this_programs_own_symbols_are_read_and_demangled() {
        let image = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let symbols = Symbols::parse(&image);
        assert!(
            symbols.list.iter().any(|s| s.2.contains("symbols::Symbols::parse")),
            "{}",
            symbols.list.len()
        );
        assert!(symbols.list.windows(2).all(|w| w[0].0 < w[1].0));
        assert!(Symbols::parse(b"no elf").list.is_empty());
    }
}
