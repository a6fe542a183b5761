//! Containers that are declared rather than asked for: what is recorded of them, and their processes,
//! which are kept running.
//!
//! Owns the declarations in the records (`record::Declaration`): which object wants a container, which
//! version of it is in force, how its processes have run. A declared container is made, kept and taken
//! away by the same loop as any other; once it rests there, [`keep`] looks after its processes.
//!
//! Promises: what runs needs nobody but this gardend, so that processes are started again while
//! whoever declared them is away; a start is recorded before it is tried; of one id at most one runs;
//! no client destroys or stops a declared container. Leaves to others: reading objects, and comparing
//! them with what is in force.

mod keep;
mod restart;
mod service;
mod view;

pub use keep::{Kept, keep};
pub use restart::Backoff;
pub use service::{DeclaredContainer, Redeclaration};
pub use view::{DeclaredView, KeptView};
