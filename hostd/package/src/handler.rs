//! Does a package hold what its handler names?

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use backhand::{FilesystemReader, InnerNode};

/// Why a handler cannot be called.
#[derive(Debug, thiserror::Error)]
pub enum HandlerError {
    /// Not of the form `module.function`.
    #[error(
        "Handler '{handler}' is not of the form 'module.function'; name the module's path and the function"
    )]
    Form {
        /// What was given.
        handler: String,
    },
    /// The module is not in the package.
    #[error(
        "Handler '{handler}' needs {wanted} in the package; add it at the top of the zip or change the handler"
    )]
    Missing {
        /// What was given.
        handler: String,
        /// The files of which one should be there.
        wanted: String,
    },
    /// The image cannot be read.
    #[error("Image {path} cannot be read: {reason}")]
    Image {
        /// The image.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// Checks that the image at `image` holds the Python module of `handler` (`module.function`,
/// `folder/module.function` or `package.module.function`), as source, package, byte code or extension.
/// Whether the module defines the function is only known when it is imported.
pub fn check_python_handler(image: &Path, handler: &str) -> Result<(), HandlerError> {
    let form = || HandlerError::Form { handler: handler.into() };
    let (module, function) = handler.rsplit_once('.').ok_or_else(form)?;
    // As the runtime client does: slashes and dots both separate packages.
    let parts: Vec<&str> = module.split(['/', '.']).collect();
    if function.is_empty() || function.contains('/') || parts.iter().any(|part| part.is_empty()) {
        return Err(form());
    }
    let module: PathBuf = ["/"].into_iter().chain(parts).collect();

    let unreadable = |reason: String| HandlerError::Image { path: image.to_owned(), reason };
    let file = File::open(image).map_err(|e| unreadable(e.to_string()))?;
    let tree = FilesystemReader::from_reader(BufReader::new(file)).map_err(|e| unreadable(e.to_string()))?;
    let found = tree.files().any(|node| {
        matches!(node.inner, InnerNode::File(_) | InnerNode::Symlink(_)) && is_module(&node.fullpath, &module)
    });
    if found {
        return Ok(());
    }
    let shown = module.strip_prefix("/").unwrap_or(&module).display();
    let wanted = format!("'{shown}.py' or '{shown}/__init__.py'");
    Err(HandlerError::Missing { handler: handler.into(), wanted })
}

/// Whether Python would load the file at `path` as the module `module` (both from the root, `module` without
/// suffix).
fn is_module(path: &Path, module: &Path) -> bool {
    let Some(name) = path.file_name().and_then(|n| n.to_str()) else { return false };
    if path.parent() == Some(module) {
        return matches!(name, "__init__.py" | "__init__.pyc");
    }
    let stem = module.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let same_folder = path.parent() == module.parent();
    same_folder
        && name.strip_prefix(stem).is_some_and(|suffix| {
            // An extension module has its interpreter's tag between: `name.cpython-311-x86_64-linux-gnu.so`.
            matches!(suffix, ".py" | ".pyc") || (suffix.starts_with('.') && suffix.ends_with(".so"))
        })
}
