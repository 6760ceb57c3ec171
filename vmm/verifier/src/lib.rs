//! The judge: walks guest page tables and checks the sharing invariants.
