//! What the front door asks of the machine behind it.

use std::future::Future;

use bytes::Bytes;
use serde_json::Value;

use crate::error::ApiError;
use crate::lambda::TagChange;
use crate::reset::{ResetReply, Wipe};
use crate::types::{
    Account, Bundle, Caller, CreateFunction, Function, FunctionPage, Health, Identity, InvokeReply,
    InvokeRequest, Limits, Provisioned, UpdateCode, UpdateConfiguration, UpdateWish, Upload,
};

/// The machine behind the front door. Implementations write plain `async fn`s.
///
/// Inputs are checked before they get here (names, ranges, sizes, JSON); what only the machine can know (does the
/// function exist, is the archive sound, is there memory) is answered with an [`ApiError`]. A call that was begun is
/// dropped when its client hangs up: what must not stop half-way belongs into a task of its own.
pub trait Platform: Send + Sync + 'static {
    /// How this machine is named in ARNs.
    fn identity(&self) -> Identity {
        Identity::default()
    }

    /// What it offers now.
    fn limits(&self) -> Limits;

    /// Makes a function. [`ApiError::ResourceConflict`] when the name is taken or being taken.
    fn create_function(
        &self,
        caller: &Caller,
        request: CreateFunction,
    ) -> impl Future<Output = Result<Function, ApiError>> + Send;

    /// One function; [`ApiError::function_not_found`] when there is none.
    fn get_function(
        &self,
        caller: &Caller,
        name: &str,
    ) -> impl Future<Output = Result<Function, ApiError>> + Send;

    /// At most `limit` (1 to 50) functions whose names sort (by byte) after `after`.
    fn list_functions(
        &self,
        caller: &Caller,
        after: Option<&str>,
        limit: usize,
    ) -> impl Future<Output = Result<FunctionPage, ApiError>> + Send;

    /// Gives a function new code.
    fn update_code(
        &self,
        caller: &Caller,
        request: UpdateCode,
    ) -> impl Future<Output = Result<Function, ApiError>> + Send;

    /// Changes a function's configuration.
    fn update_configuration(
        &self,
        caller: &Caller,
        request: UpdateConfiguration,
    ) -> impl Future<Output = Result<Function, ApiError>> + Send;

    /// Changes a function's tags, of which another change may be under way.
    fn change_tags(
        &self,
        caller: &Caller,
        name: &str,
        change: TagChange,
    ) -> impl Future<Output = Result<Function, ApiError>> + Send;

    /// Reserves so many calls at once for a function, which cannot have more then; `None`: reserves none.
    fn reserve(
        &self,
        caller: &Caller,
        name: &str,
        concurrency: Option<u32>,
    ) -> impl Future<Output = Result<Function, ApiError>> + Send;

    /// Has so many sandboxes of a function (at least 1) always there and says how far they are.
    fn provision(
        &self,
        caller: &Caller,
        name: &str,
        sandboxes: u32,
    ) -> impl Future<Output = Result<Provisioned, ApiError>> + Send;

    /// Has no sandboxes of a function always there.
    fn unprovision(&self, caller: &Caller, name: &str) -> impl Future<Output = Result<(), ApiError>> + Send;

    /// How far the sandboxes are that are always to be there; `None` if none are to be.
    fn provisioned(
        &self,
        caller: &Caller,
        name: &str,
    ) -> impl Future<Output = Result<Option<Provisioned>, ApiError>> + Send;

    /// Limits of the machine and what is used of them.
    fn account(&self, caller: &Caller) -> impl Future<Output = Result<Account, ApiError>> + Send;

    /// Removes a function and everything that belongs to it.
    fn delete_function(
        &self,
        caller: &Caller,
        name: &str,
    ) -> impl Future<Output = Result<(), ApiError>> + Send;

    /// Runs a function and waits for its answer.
    fn invoke(
        &self,
        caller: &Caller,
        request: InvokeRequest,
    ) -> impl Future<Output = Result<InvokeReply, ApiError>> + Send;

    /// State of the service. Must be quick: the watchdog of the machine hangs on it.
    fn health(&self) -> impl Future<Output = Health> + Send;

    /// Version, uptime and counts (processes, files, mounts, sandboxes, memory …) as a JSON object.
    fn status(&self) -> impl Future<Output = Value> + Send;

    /// The configuration in the form of `mote.toml`, each value with the layer it comes from. No secrets.
    fn configuration(&self) -> impl Future<Output = String> + Send;

    /// Puts a text in the form of `mote.toml` in place of what was set this way before, and says how many keys it sets. It
    /// takes effect when the machine starts again.
    fn configure(&self, caller: &Caller, text: Bytes)
    -> impl Future<Output = Result<usize, ApiError>> + Send;

    /// The sandboxes there are, as a JSON array.
    fn sandboxes(&self) -> impl Future<Output = Value> + Send;

    /// Puts all idle sandboxes away and says how many, once they are gone.
    fn evict_idle(&self) -> impl Future<Output = Result<u64, ApiError>> + Send;

    /// The snapshots there are, and what they are layered over, as a JSON object.
    fn snapshots(&self) -> impl Future<Output = Result<Value, ApiError>> + Send;

    /// Drops the files of a function's snapshot from the page cache: what is measured next reads the disk.
    fn evict_cache(
        &self,
        caller: &Caller,
        function: &str,
    ) -> impl Future<Output = Result<Value, ApiError>> + Send;

    /// Makes a function's snapshot anew, the given call recorded; says what was made.
    fn record(
        &self,
        caller: &Caller,
        request: InvokeRequest,
    ) -> impl Future<Output = Result<Value, ApiError>> + Send;

    /// The last `limit` lines (1 to 10 000) of a function's log, oldest first.
    fn logs(
        &self,
        caller: &Caller,
        function: &str,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<String>, ApiError>> + Send;

    /// The crashes there is a record of, oldest first, as a JSON array.
    fn crashes(&self) -> impl Future<Output = Result<Value, ApiError>> + Send;

    /// The record of one crash, as a JSON object; [`ApiError::ResourceNotFound`] when there is none.
    fn crash(&self, id: &str) -> impl Future<Output = Result<Value, ApiError>> + Send;

    /// Removes the record of a crash; [`ApiError::ResourceNotFound`] when there is none.
    fn remove_crash(&self, id: &str) -> impl Future<Output = Result<(), ApiError>> + Send;

    /// Begins to write a support bundle, which holds no secrets.
    fn bundle(&self) -> impl Future<Output = Result<Bundle, ApiError>> + Send;

    /// Writes an update to the slot that does not run; when it is whole, it is to be tried at the next start. Says what was
    /// done, as a JSON object. What is refused, or does not come whole, changes nothing that runs.
    fn update(
        &self,
        caller: &Caller,
        wish: UpdateWish,
        upload: Upload,
    ) -> impl Future<Output = Result<Value, ApiError>> + Send;

    /// What is in both slots and where an update stands, as a JSON object.
    fn update_state(&self) -> impl Future<Output = Result<Value, ApiError>> + Send;

    /// Has the version that ran before tried at the next start; says so as a JSON object.
    fn roll_back(
        &self,
        caller: &Caller,
        wish: UpdateWish,
    ) -> impl Future<Output = Result<Value, ApiError>> + Send;

    /// Stops an update that is being written, or has not been tried yet; says so as a JSON object.
    fn call_off_update(&self, caller: &Caller) -> impl Future<Output = Result<Value, ApiError>> + Send;

    /// Begins to switch the machine off and returns.
    fn shutdown(&self) -> impl Future<Output = Result<(), ApiError>> + Send;

    /// Begins to restart the machine and returns.
    fn reboot(&self) -> impl Future<Output = Result<(), ApiError>> + Send;

    /// Says what confirms that the data disk is to be wiped; with that, begins to restart the machine, which wipes it.
    fn reset(
        &self,
        what: Wipe,
        confirm: Option<&str>,
    ) -> impl Future<Output = Result<ResetReply, ApiError>> + Send;
}
