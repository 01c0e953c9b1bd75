//! Builds the Swift half (`swift/`) and links it in, where that is possible and wanted. It then sets `cfg(vz)`, which
//! enables the backend `vz`, and with the stand-in also `cfg(standin)`.
//!
//! It is the build script of two packages: `dvn-hypervisor`, which has the Swift half, and the program, which repeats
//! the linker arguments: Cargo does not pass on those of a dependency's build script.
//!
//! ```text
//!  target  host    Swift
//!  macOS   macOS   the system's, for Apple's Virtualization
//!  macOS   other   none: the Rust half is checked, nothing can be linked
//!  Linux   Linux   $DVN_SWIFT (a path of swiftc), for the stand-in of tests/virtualization-standin; unset: no `vz`
//! ```

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

// Paths as seen from `dvn-hypervisor`.
const SCRIPT: &str = "../../build.rs";
const BRIDGE: &str = "src/vz/ffi.rs";
const SHIM: &str = "../../swift/Sources/DarwinVzShim";
const STAND_IN: &str = "../../tests/virtualization-standin";
/// The oldest macOS that the program runs on. The shim checks the version before it uses later features.
const OLDEST_MACOS: &str = "14.0";

type Outcome<T> = Result<T, String>;

fn main() -> Result<(), String> {
    println!("cargo::rustc-check-cfg=cfg(vz, standin)");
    if variable("CARGO_PKG_NAME")? == "darwin-vz-nix" {
        println!("cargo::rerun-if-changed=build.rs");
        if variable("CARGO_CFG_TARGET_OS")? == "macos" && cfg!(target_os = "macos") {
            link_for_macos();
        }
        return Ok(());
    }
    for input in [SCRIPT, BRIDGE, SHIM, STAND_IN] {
        println!("cargo::rerun-if-changed={input}");
    }
    println!("cargo::rerun-if-env-changed=DVN_SWIFT");
    let target = variable("CARGO_CFG_TARGET_OS")?;
    if target == "macos" {
        println!("cargo::rustc-cfg=vz");
        return match cfg!(target_os = "macos") {
            true => Build::new()?.for_macos(),
            false => Ok(()),
        };
    }
    match env::var_os("DVN_SWIFT") {
        Some(swiftc) if target == "linux" => {
            println!("cargo::rustc-cfg=vz");
            println!("cargo::rustc-cfg=standin");
            Build::new()?.for_linux(Path::new(&swiftc))
        }
        _ => {
            println!(
                "cargo::warning=without the backend `vz` and its tests: DVN_SWIFT names no Swift compiler (`make test` sets it)"
            );
            Ok(())
        }
    }
}

/// Linker arguments of a program with the Swift half.
fn link_for_macos() {
    // Swift's runtime is part of the system.
    println!("cargo::rustc-link-arg=-Wl,-rpath,/usr/lib/swift");
    println!("cargo::rustc-link-arg=-mmacosx-version-min={OLDEST_MACOS}");
}

fn variable(name: &str) -> Outcome<String> {
    env::var(name).map_err(|e| format!("{name}: {e}"))
}

/// Runs a program. Returns its errors, and prints its warnings.
fn run(command: &mut Command) -> Outcome<String> {
    let output = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("{command:?}: {}\n{errors}", output.status));
    }
    for line in errors.lines().filter(|line| line.contains("warning:")) {
        println!("cargo::warning={line}");
    }
    String::from_utf8(output.stdout).map_err(|e| format!("{command:?}: {e}"))
}

fn swift_files(dir: &Path) -> Outcome<Vec<PathBuf>> {
    let files = fs::read_dir(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let mut files: Vec<_> = files.flatten().map(|file| file.path()).collect();
    files.retain(|file| file.extension().is_some_and(|end| end == "swift"));
    files.sort();
    Ok(files)
}

struct Build {
    out: PathBuf,
    /// swift-bridge's Swift code.
    glue: PathBuf,
}

impl Build {
    fn new() -> Outcome<Build> {
        let out = PathBuf::from(variable("OUT_DIR")?);
        let glue = out.join("glue");
        swift_bridge_build::parse_bridges([BRIDGE]).write_all_concatenated(&glue, "DarwinVzShim");
        let header = "#include <stdbool.h>\n#include <stdint.h>\n#include \"SwiftBridgeCore.h\"\n#include \"DarwinVzShim/DarwinVzShim.h\"\n";
        fs::write(glue.join("bridge.h"), header).map_err(|e| format!("{}: {e}", glue.display()))?;
        Ok(Build { out, glue })
    }

    /// Compiles one module into one object file.
    fn compile(&self, mut swiftc: Command, module: &str, files: &[PathBuf]) -> Outcome<PathBuf> {
        let object = self.out.join(format!("{module}.o"));
        let optimise = if variable("OPT_LEVEL")? == "0" { "-Onone" } else { "-O" };
        swiftc.args(["-c", "-wmo", "-parse-as-library", "-swift-version", "5", optimise, "-module-name", module]);
        run(swiftc.args(files).arg("-o").arg(&object))?;
        Ok(object)
    }

    fn shim(&self, mut swiftc: Command) -> Outcome<PathBuf> {
        let mut files = swift_files(Path::new(SHIM))?;
        files.extend(swift_files(&self.glue)?);
        files.extend(swift_files(&self.glue.join("DarwinVzShim"))?);
        swiftc.arg("-import-objc-header").arg(self.glue.join("bridge.h"));
        self.compile(swiftc, "DarwinVzShim", &files)
    }

    fn archive(&self, objects: &[PathBuf]) -> Outcome<()> {
        let library = self.out.join("libDarwinVzShim.a");
        // `ar` would add to an existing archive.
        if library.exists() {
            fs::remove_file(&library).map_err(|e| format!("{}: {e}", library.display()))?;
        }
        run(Command::new("ar").arg("crs").arg(library).args(objects))?;
        println!("cargo::rustc-link-search=native={}", self.out.display());
        Ok(())
    }

    fn for_macos(&self) -> Outcome<()> {
        // The system's own tools, even inside a Nix shell, whose SDK has no Swift.
        let xcrun = |args: &[&str]| {
            let mut command = Command::new("/usr/bin/xcrun");
            command.args(["--sdk", "macosx"]).args(args).env_remove("SDKROOT").env_remove("DEVELOPER_DIR");
            command
        };
        let arch = variable("CARGO_CFG_TARGET_ARCH")?.replace("aarch64", "arm64");
        let mut swiftc = xcrun(&["swiftc"]);
        swiftc.args(["-target", &format!("{arch}-apple-macos{OLDEST_MACOS}")]);
        self.archive(&[self.shim(swiftc)?])?;
        println!("cargo::rustc-link-lib=static=DarwinVzShim");
        println!("cargo::rustc-link-lib=framework=Virtualization");
        let sdk = run(&mut xcrun(&["--show-sdk-path"]))?;
        println!("cargo::rustc-link-search=native={}/usr/lib/swift", sdk.trim());
        link_for_macos();
        Ok(())
    }

    fn for_linux(&self, swiftc: &Path) -> Outcome<()> {
        if !swiftc.is_file() {
            return Err(format!("DVN_SWIFT is {}, and there is no such compiler", swiftc.display()));
        }
        let swift = || {
            let mut command = Command::new(swiftc);
            command.args(["-static-stdlib", "-warnings-as-errors"]);
            command
        };
        let mut stand_in = swift();
        stand_in.args(["-emit-module", "-emit-module-path"]).arg(self.out.join("Virtualization.swiftmodule"));
        let stand_in = self.compile(stand_in, "Virtualization", &swift_files(Path::new(STAND_IN))?)?;
        let mut shim = swift();
        shim.arg("-I").arg(&self.out);
        let shim = self.shim(shim)?;
        let newer_glibc = self.out.join("glibc238.o");
        let source = Path::new(STAND_IN).join("glibc238.c");
        run(Command::new("cc").args(["-O2", "-fPIC", "-c"]).arg(source).arg("-o").arg(&newer_glibc))?;

        let bin = swiftc.parent().ok_or("DVN_SWIFT has no directory")?;
        let runtime = bin.join("../lib/swift_static/linux");
        let mut libraries = BTreeSet::new();
        for object in [&stand_in, &shim] {
            let list = object.with_extension("autolink");
            run(Command::new(bin.join("swift-autolink-extract")).arg(object).arg("-o").arg(&list))?;
            let list = fs::read_to_string(&list).map_err(|e| format!("{}: {e}", list.display()))?;
            libraries.extend(list.lines().filter_map(|line| line.strip_prefix("-l")).map(str::to_owned));
        }
        // It registers Swift's metadata, and must be linked with the rest.
        let registrar = runtime.join(variable("CARGO_CFG_TARGET_ARCH")?).join("swiftrt.o");
        self.archive(&[stand_in, shim, newer_glibc, registrar])?;
        println!("cargo::rustc-link-lib=static:+whole-archive=DarwinVzShim");
        println!("cargo::rustc-link-search=native={}", runtime.display());
        for library in libraries {
            let bundled = runtime.join(format!("lib{library}.a")).exists();
            println!("cargo::rustc-link-lib={}={library}", if bundled { "static:-bundle" } else { "dylib" });
        }
        println!("cargo::rustc-link-lib=dylib=stdc++");
        Ok(())
    }
}
