//! Paths of all kinds lead to the file that defines what they name.

use std::fs;
use std::path::Path;

use super::*;

/// A crate of these files below `src`, and its edges as `from -> to`, by file name.
fn edges_of(files: &[(&str, &str)]) -> Vec<String> {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, text) in files {
        let path = folder.path().join("src").join(name);
        fs::create_dir_all(path.parent().expect("below src")).expect("a folder");
        fs::write(path, text).expect("a file");
    }
    let modules = Modules::read(folder.path(), Path::new("src/lib.rs")).expect("it parses");
    let name = |file: usize| {
        let path = modules.files[file].strip_prefix("src").expect("below src");
        path.display().to_string()
    };
    let all = edges(&modules);
    all.iter()
        .map(|((from, to), edge)| format!("{}:{} -> {}", name(*from), edge.line, name(*to)))
        .collect()
}

#[test]
fn a_parent_that_declares_and_re_exports_has_no_edge_and_users_reach_the_definition() {
    let found = edges_of(&[
        ("lib.rs", "pub mod a;\nmod user;\npub use a::*;\npub use user::u as v;"),
        ("a/mod.rs", "mod inner;\npub use inner::{Thing as Renamed, f};"),
        ("a/inner.rs", "pub struct Thing;\npub fn f() {}"),
        ("user.rs", "use crate::Renamed;\npub fn u(_: Renamed) { crate::a::f() }"),
    ]);
    assert_eq!(found, ["user.rs:1 -> a/inner.rs"]);
}

#[test]
fn a_parent_that_uses_what_it_re_exports_has_an_edge_where_it_does() {
    let found = edges_of(&[
        ("lib.rs", "pub use a::A;\nmod a;\n\npub fn f(_: A) {}"),
        ("a.rs", "pub struct A;"),
    ]);
    assert_eq!(found, ["lib.rs:4 -> a.rs"]);
}

#[test]
fn paths_in_code_macros_and_bodies_count_and_fields_and_methods_do_not() {
    let found = edges_of(&[
        ("lib.rs", "mod a; mod b; mod c; mod d; mod e;"),
        ("a.rs", "pub struct A; pub const K: u8 = 1; pub fn len() {}"),
        ("b.rs", "\npub fn f() { assert_eq!(1, super::a::K); }"),
        ("c.rs", "use crate::a;\npub fn f() -> a::A { loop {} }"),
        ("d.rs", "pub fn f(x: &[u8]) { use super::a::A; println!(\"{}\", x.len()); }"),
        ("e.rs", "use super::a::*;\npub fn f(x: &[u8]) -> usize { dbg!(x.len()) + x.len() }"),
    ]);
    assert_eq!(found, ["b.rs:2 -> a.rs", "c.rs:2 -> a.rs", "d.rs:1 -> a.rs"]);
}

#[test]
fn names_from_globs_and_from_macros_are_found() {
    let found = edges_of(&[
        ("lib.rs", "mod a; mod b; mod c;"),
        ("a.rs", "bitflags! { pub struct Flags: u8 {} }\nmake!(Hidden);"),
        ("b.rs", "use crate::a::*;\n\npub fn f(_: Flags) {}"),
        ("c.rs", "use crate::a::Hidden;"),
    ]);
    assert_eq!(found, ["b.rs:3 -> a.rs", "c.rs:1 -> a.rs"]);
}

#[test]
fn what_is_built_for_tests_only_is_left_out() {
    let found = edges_of(&[
        ("lib.rs", "mod a; mod b;"),
        ("a.rs", "pub struct A;\n#[cfg(all(test, unix))] mod tests { use crate::b::B; }"),
        (
            "b.rs",
            "#[cfg(test)] use crate::a::A;\n#[cfg(test)] mod tests;\npub struct B;\n\
             impl B { #[cfg(test)] fn f(_: crate::a::A) {} }\n#[cfg(not(test))] use crate::a::A;",
        ),
    ]);
    assert_eq!(found, ["b.rs:5 -> a.rs"]);
}

#[test]
fn an_inline_module_belongs_to_its_file_and_has_its_own_super() {
    let found = edges_of(&[
        ("lib.rs", "mod a; mod b;"),
        ("a.rs", "pub struct A;"),
        ("b.rs", "struct B;\nmod inner {\n use super::B;\n use super::super::a::A;\n}"),
    ]);
    assert_eq!(found, ["b.rs:4 -> a.rs"]);
}
