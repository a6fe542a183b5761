//! Holds the rules of the house (docs/architecture.md): which crate and which part of `src/` may know which,
//! where `unsafe` may stand, and that every module says what it is for.
//!
//! The checks read source text, so that each is itself tested on text that breaks its rule.

use proc_macro2::{TokenStream, TokenTree};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use syn::visit::{self, Visit};

/// The parts of `src/` that know the controller and never each other.
const PARTS: [&str; 5] = ["garden", "node", "kube", "cli", "plugin"];

/// Who may know whom all the same: kubectl's plugin is a command line too.
const ALLOWED: [(&str, &str); 1] = [("plugin", "cli")];

/// Lines that a module's doc may have.
const LONGEST_DOC: usize = 20;

/// Where in the module tree a file is: `["node", "mount", "tree"]`.
fn module_path(file_below_src: &Path) -> Vec<String> {
    let mut path: Vec<String> = file_below_src
        .with_extension("")
        .components()
        .map(|component| component.as_os_str().to_string_lossy().into_owned())
        .collect();
    if matches!(path.last().map(String::as_str), Some("mod" | "lib" | "main")) {
        path.pop();
    }
    path
}

/// Every path from the crate's root that a file names, `super` and `use` groups resolved.
struct Names {
    module: Vec<String>,
    found: Vec<Vec<String>>,
}

impl Names {
    fn of(module: Vec<String>, source: &str) -> Vec<Vec<String>> {
        let file = syn::parse_file(source).expect("the compiler has accepted it");
        let mut names = Self { module, found: Vec::new() };
        names.visit_file(&file);
        names.found
    }

    /// Takes a path as it is written, and keeps it where it leads from the crate's root.
    fn note(&mut self, written: &[String]) {
        let mut rest = written;
        let mut base = match rest.first().map(String::as_str) {
            Some("crate" | "gardend" | "$crate") => {
                rest = &rest[1..];
                Vec::new()
            }
            Some("self") => {
                rest = &rest[1..];
                self.module.clone()
            }
            Some("super") => self.module.clone(),
            _ => return,
        };
        while rest.first().is_some_and(|segment| segment == "super") {
            base.pop();
            rest = &rest[1..];
        }
        base.extend_from_slice(rest);
        self.found.push(base);
    }

    fn note_use(&mut self, prefix: &[String], tree: &syn::UseTree) {
        let with = |ident: &syn::Ident| {
            let mut path = prefix.to_vec();
            path.push(ident.to_string());
            path
        };
        match tree {
            syn::UseTree::Path(path) => self.note_use(&with(&path.ident), &path.tree),
            syn::UseTree::Name(name) => self.note(&with(&name.ident)),
            syn::UseTree::Rename(rename) => self.note(&with(&rename.ident)),
            syn::UseTree::Glob(_) => self.note(prefix),
            syn::UseTree::Group(group) => group.items.iter().for_each(|tree| self.note_use(prefix, tree)),
        }
    }

    /// What a macro is given is no syntax yet: identifiers joined by `::` are taken as paths.
    fn note_tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(ident) if path.is_empty() || colons == 2 => path.push(ident.to_string()),
                TokenTree::Ident(ident) => {
                    self.note(&std::mem::take(&mut path));
                    path.push(ident.to_string());
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => {
                    colons += 1;
                    continue;
                }
                TokenTree::Group(group) => {
                    self.note(&std::mem::take(&mut path));
                    self.note_tokens(group.stream());
                }
                _ => self.note(&std::mem::take(&mut path)),
            }
            colons = 0;
        }
        self.note(&path);
    }
}

impl<'ast> Visit<'ast> for Names {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        self.module.push(item.ident.to_string());
        visit::visit_item_mod(self, item);
        self.module.pop();
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.note_use(&[], &item.tree);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let written: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.note(&written);
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, called: &'ast syn::Macro) {
        self.note_tokens(called.tokens.clone());
        visit::visit_macro(self, called);
    }
}

/// The parts that a file of one part names and may not know.
fn forbidden_parts(file_below_src: &Path, source: &str) -> Vec<String> {
    let module = module_path(file_below_src);
    let Some(own) = module.first().filter(|part| PARTS.contains(&part.as_str())).cloned() else { return Vec::new() };
    let mut found: Vec<String> = Names::of(module, source)
        .into_iter()
        .filter_map(|path| path.into_iter().next())
        .filter(|part| *part != own && PARTS.contains(&part.as_str()))
        .filter(|part| !ALLOWED.contains(&(own.as_str(), part.as_str())))
        .collect();
    found.sort();
    found.dedup();
    found
}

/// How often a file says `unsafe` outside of modules named `sys`.
fn unsafe_outside_sys(file_below_src: &Path, source: &str) -> usize {
    struct Unsafe {
        module: Vec<String>,
        count: usize,
    }
    impl Unsafe {
        fn see(&mut self, is_unsafe: bool) {
            if is_unsafe && !self.module.iter().any(|name| name == "sys") {
                self.count += 1;
            }
        }
        fn see_tokens(&mut self, tokens: TokenStream) {
            for token in tokens {
                match token {
                    TokenTree::Ident(ident) => self.see(ident == "unsafe"),
                    TokenTree::Group(group) => self.see_tokens(group.stream()),
                    _ => {}
                }
            }
        }
    }
    impl<'ast> Visit<'ast> for Unsafe {
        fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
            self.module.push(item.ident.to_string());
            visit::visit_item_mod(self, item);
            self.module.pop();
        }
        fn visit_expr_unsafe(&mut self, expression: &'ast syn::ExprUnsafe) {
            self.see(true);
            visit::visit_expr_unsafe(self, expression);
        }
        fn visit_signature(&mut self, signature: &'ast syn::Signature) {
            self.see(matches!(signature.safety, syn::Safety::Unsafe(_)));
            visit::visit_signature(self, signature);
        }
        fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
            self.see(item.unsafety.is_some());
            visit::visit_item_impl(self, item);
        }
        fn visit_item_trait(&mut self, item: &'ast syn::ItemTrait) {
            self.see(item.unsafety.is_some());
            visit::visit_item_trait(self, item);
        }
        fn visit_item_foreign_mod(&mut self, item: &'ast syn::ItemForeignMod) {
            self.see(true);
            visit::visit_item_foreign_mod(self, item);
        }
        fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
            self.see(attribute.path().is_ident("unsafe"));
            visit::visit_attribute(self, attribute);
        }
        fn visit_macro(&mut self, called: &'ast syn::Macro) {
            self.see_tokens(called.tokens.clone());
        }
    }
    let mut seen = Unsafe { module: module_path(file_below_src), count: 0 };
    seen.visit_file(&syn::parse_file(source).expect("the compiler has accepted it"));
    seen.count
}

/// What is wrong with a file's module doc.
fn doc_fault(source: &str) -> Option<String> {
    let file = syn::parse_file(source).expect("the compiler has accepted it");
    let lines = file.attrs.iter().filter(|attribute| attribute.path().is_ident("doc")).count();
    match lines {
        0 => Some("does not say what it is for: begin it with //!".to_owned()),
        lines if lines > LONGEST_DOC => {
            Some(format!("needs {lines} lines to say what it is for, where {LONGEST_DOC} must do"))
        }
        _ => None,
    }
}

/// Asked at run time: a target folder may be shared by several copies of the sources.
fn root() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it").into()
}

/// Every source file of ours, as (its `src` folder, its path below that).
fn sources() -> Vec<(PathBuf, PathBuf)> {
    let mut found = Vec::new();
    for crate_folder in ["", "controller", "crds", "init"] {
        let src = root().join(crate_folder).join("src");
        let mut folders = vec![src.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
                let path = entry.expect("the folder can be read").path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    let below = path.strip_prefix(&src).expect("it was found there").to_owned();
                    found.push((src.clone(), below));
                }
            }
        }
    }
    assert!(found.len() > 20, "only {} source files were found", found.len());
    found
}

/// Checks every source file and fails with all that is wrong.
fn every_source(check: impl Fn(&Path, &Path, &str) -> Option<String>) {
    let faults: Vec<String> = sources()
        .iter()
        .filter_map(|(src, below)| {
            let path = src.join(below);
            let source = fs::read_to_string(&path).expect("a source file can be read");
            check(src, below, &source).map(|fault| format!("{}: {fault}", path.display()))
        })
        .collect();
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn the_parts_of_src_do_not_know_each_other() {
    let gardend = root().join("src");
    every_source(|src, below, source| {
        let parts = if src == gardend { forbidden_parts(below, source) } else { Vec::new() };
        (!parts.is_empty())
            .then(|| format!("names {}; parts know the controller and never each other", parts.join(", ")))
    });
}

#[test]
fn unsafe_stands_in_modules_named_sys_alone() {
    every_source(|_, below, source| {
        let count = unsafe_outside_sys(below, source);
        (count > 0).then(|| format!("says unsafe {count} times; such calls belong in a module named sys"))
    });
}

#[test]
fn every_module_says_what_it_is_for() {
    every_source(|_, _, source| doc_fault(source));
}

/// The workspace's members, and which other members each depends on in any way.
fn members() -> BTreeMap<String, Vec<String>> {
    let output = std::process::Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version=1", "--offline", "--manifest-path"])
        .arg(root().join("Cargo.toml"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    dependencies(&output.stdout)
}

/// Reads what `cargo metadata` printed.
fn dependencies(metadata: &[u8]) -> BTreeMap<String, Vec<String>> {
    let metadata: serde_json::Value = serde_json::from_slice(metadata).expect("cargo prints JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    packages
        .iter()
        .map(|package| {
            let of = |value: &serde_json::Value| value["name"].as_str().expect("a name").to_owned();
            let name = of(package);
            let all = package["dependencies"].as_array().expect("dependencies").iter();
            let ours = all.filter(|dependency| dependency["path"].is_string()).map(of);
            // A crate may name itself, to have a feature on in its tests.
            let others = ours.filter(|other| *other != name).collect();
            (name, others)
        })
        .collect()
}

/// The members that depend on another though they must stand alone.
fn leaning(members: &BTreeMap<String, Vec<String>>) -> Vec<&str> {
    members
        .iter()
        .filter(|(name, others)| *name != "gardend" && !others.is_empty())
        .map(|(name, _)| name.as_str())
        .collect()
}

#[test]
fn controller_crds_and_init_depend_on_nothing_of_ours() {
    let members = members();
    let names: Vec<&str> = members.keys().map(String::as_str).collect();
    assert_eq!(names, ["garden-init", "gardend", "gardend-controller", "gardend-crds"]);
    assert_eq!(leaning(&members), [""; 0]);
}

mod the_checks_themselves {
    use super::*;

    #[test]
    fn a_part_that_names_another_is_found_however_it_is_written() {
        for source in [
            "use crate::node::Place;",
            "use crate::{config, node};",
            "use crate::{node::{Place, other}};",
            "use crate::node as somewhere;",
            "use super::super::node::Place;",
            "use gardend::node::Place;",
            "fn f() { crate::node::make() }",
            "fn f(place: &super::super::node::Place) {}",
            "fn f() { assert_eq!(1, (crate::node::COUNT)); }",
            "mod inner { use super::super::super::node::Place; }",
            "impl crate::node::Trait for X {}",
        ] {
            assert_eq!(forbidden_parts(Path::new("garden/routes.rs"), source), ["node"], "{source}");
        }
    }

    #[test]
    fn what_a_part_may_name_is_not_found() {
        for source in [
            "use crate::garden::wire::Message; use super::answer; use self::inner::X;",
            "use gardend_controller::node; use other::node::Place; mod node {}",
            "fn f() { node::make(); println!(\"crate::node\"); }",
            "// use crate::node;\nuse crate::config::Options;",
        ] {
            assert_eq!(forbidden_parts(Path::new("garden/routes.rs"), source), [""; 0], "{source}");
        }
        assert_eq!(
            forbidden_parts(Path::new("plugin/mod.rs"), "use crate::cli::output; use crate::kube::Place;"),
            ["kube"]
        );
        assert_eq!(forbidden_parts(Path::new("cli/mod.rs"), "use crate::plugin::run;"), ["plugin"]);
        assert_eq!(forbidden_parts(Path::new("main.rs"), "use crate::node; use crate::garden;"), [""; 0]);
        assert_eq!(forbidden_parts(Path::new("garden/mod.rs"), "use super::node::Place;"), ["node"]);
    }

    #[test]
    fn unsafe_is_found_outside_of_sys_and_nowhere_else() {
        for source in [
            "fn f() { unsafe { g() } }",
            "unsafe fn f() {}",
            "unsafe impl Send for X {}",
            "unsafe trait X {}",
            "unsafe extern \"C\" {}",
            "#[unsafe(no_mangle)] fn f() {}",
            "fn f() { vec![unsafe { g() }]; }",
            "impl X { unsafe fn f() {} }",
        ] {
            assert_eq!(unsafe_outside_sys(Path::new("node/mount/tree.rs"), source), 1, "{source}");
            assert_eq!(unsafe_outside_sys(Path::new("node/sys.rs"), source), 0, "{source}");
            assert_eq!(unsafe_outside_sys(Path::new("sys/socket.rs"), source), 0, "{source}");
            assert_eq!(unsafe_outside_sys(Path::new("lib.rs"), &format!("mod sys {{ {source} }}")), 0, "{source}");
        }
        assert_eq!(unsafe_outside_sys(Path::new("lib.rs"), "//! unsafe\nfn not_unsafe() { \"unsafe\"; }"), 0);
    }

    #[test]
    fn a_module_without_a_doc_and_one_with_too_long_a_one_are_found() {
        assert!(doc_fault("/// of the function\nfn f() {}").is_some());
        assert!(doc_fault(&"//! line\n".repeat(LONGEST_DOC + 1)).is_some());
        assert_eq!(doc_fault("//! What it is for.\nfn f() {}"), None);
    }

    #[test]
    fn a_crate_that_depends_on_another_of_ours_is_found() {
        let metadata = br#"{"packages":[
            {"name":"gardend","dependencies":[{"name":"garden-init","path":"/x/init"}]},
            {"name":"garden-init","dependencies":[{"name":"serde"}]},
            {"name":"gardend-controller","dependencies":[{"name":"garden-init","path":"/x/init","kind":"dev"}]}
        ]}"#;
        assert_eq!(leaning(&dependencies(metadata)), ["gardend-controller"]);
    }
}
