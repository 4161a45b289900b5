//! The Runtime API as an unmodified `awslambdaric` uses it.

mod support;

use std::time::Duration;

use mote_agent::process::Reap;
use mote_protocol::{AgentMessage, FailureKind, HostMessage, MAX_BODY, MAX_PAYLOAD, ResultKind};
use serde_json::json;
use support::{STARVING, Sandbox, UNACCEPTABLE, call, function, identity, python};

#[tokio::test]
async fn a_function_is_settled_restored_and_called() {
    let mut sandbox = Sandbox::new().await;
    let output = sandbox.ready("app.handler").await;
    assert_eq!(output, "settling\n");
    sandbox.snapshot_and_resume().await;

    let outcome = sandbox.call("call-1", json!({"do": "describe", "n": 1})).await;
    assert_eq!(outcome.kind, ResultKind::Response);
    assert_eq!(outcome.stdout, "restored\n");
    assert!(outcome.peak_memory_kb > 1000);
    let seen = outcome.json();
    assert_eq!(seen["event"], json!({"do": "describe", "n": 1}));
    assert_eq!(seen["hooks"], json!(["before", "after"]));
    assert_eq!(seen["request_id"], "call-1");
    assert_eq!(seen["arn"], "arn:aws:lambda:us-east-1:000000000000:function:app");
    assert_eq!(seen["custom"], json!({"from": "caller"}));
    assert_eq!(seen["trace"], "Root=1-67891233-abcdef012345678912345678");
    assert_eq!(seen["folder"], concat!(env!("CARGO_MANIFEST_DIR"), "/tests/function"));
    assert_eq!(seen["stage"], "test");
    let remaining = seen["remaining_ms"].as_i64().unwrap();
    assert!((1..=30_000).contains(&remaining), "{remaining}");
    assert!(seen["log_stream"].as_str().unwrap().ends_with("/[$LATEST]restored1"), "{seen}");

    // Warm, on the same session; then settled once more, as for a snapshot of a warm function.
    for n in 2..5 {
        let event = json!({ "n": n });
        assert_eq!(sandbox.call(&format!("call-{n}"), event.clone()).await.json(), event);
    }
    sandbox.snapshot_and_resume().await;
    assert_eq!(sandbox.call("call-5", json!([1, null])).await.json(), json!([1, null]));
}

#[tokio::test]
async fn a_snapshot_between_calls_gives_every_restore_its_own_identity() {
    let mut sandbox = Sandbox::resumed("app.handler").await;
    let seed = json!({"do": "seed", "with": 7});
    let number = sandbox.call("call-1", seed.clone()).await.json();
    assert_eq!(sandbox.call("call-2", json!({"do": "dice"})).await.json(), number);
    let mut numbers = vec![number];
    for restore in 2..5 {
        sandbox.call("seed", seed.clone()).await;
        sandbox.snapshot_and_resume().await;
        let outcome = sandbox.call("dice", json!({"do": "dice"})).await;
        // The function's own hooks run too, and what they print belongs to the call.
        assert_eq!(outcome.stdout, "restored\n");
        assert!(!numbers.contains(&outcome.json()), "{numbers:?}");
        numbers.push(outcome.json());

        // Once for each restore.
        let outcome = sandbox.call("describe", json!({"do": "describe"})).await;
        assert_eq!(outcome.stdout, "");
        let seen = outcome.json();
        assert_eq!(seen["hooks"].as_array().unwrap().len(), 1 + restore);
        let stream = format!("/[$LATEST]restored{restore}");
        assert!(seen["log_stream"].as_str().unwrap().ends_with(&stream), "{seen}");
    }
}

#[tokio::test]
async fn free_memory_is_cleared_for_the_snapshot_it_was_ordered_for() {
    let mut sandbox = Sandbox::resumed("app.handler").await;
    // Ordered during a call, carried out when the runtime has come to rest.
    sandbox.invoke("call-1", &json!({"do": "chatty", "lines": 9})).await;
    sandbox.send(&HostMessage::Scrub { within_ms: 250 }, &[]).await;
    sandbox.outcome("call-1").await;
    sandbox.snapshot_and_resume().await;
    assert_eq!(*sandbox.settled.lock().unwrap(), Some(Duration::from_millis(250)));
    sandbox.snapshot_and_resume().await;
    assert_eq!(*sandbox.settled.lock().unwrap(), None);
    // Of a host that went away nothing is left.
    sandbox.send(&HostMessage::Scrub { within_ms: 250 }, &[]).await;
    sandbox.connect().await;
    sandbox.snapshot_and_resume().await;
    assert_eq!(*sandbox.settled.lock().unwrap(), None);
    assert_eq!(sandbox.call("call-2", json!(2)).await.json(), json!(2));
}

#[tokio::test]
async fn a_base_becomes_a_function_after_it_was_restored() {
    let mut sandbox = Sandbox::new().await;
    sandbox.snapshot_and_resume().await;
    let frame = sandbox.frame().await.unwrap();
    assert!(matches!(frame.message, AgentMessage::Resumed { .. }), "{frame:?}");
    sandbox.ready("app.handler").await;
    sandbox.snapshot_and_resume().await;
    assert_eq!(sandbox.call("call-1", json!(1)).await.json(), json!(1));

    // The identity comes with the function as well: `Resume` may be left out.
    let mut sandbox = Sandbox::new().await;
    sandbox.snapshot().await;
    sandbox.connect().await;
    sandbox.ready("app.handler").await;
    sandbox.snapshot_and_resume().await;
    assert_eq!(sandbox.call("call-1", json!(1)).await.json(), json!(1));
}

#[tokio::test]
async fn a_prewarmed_interpreter_is_like_one_started_for_the_function() {
    let environment = [("TZ", "Asia/Tokyo"), ("PATH", "/nowhere")];
    let mut cold = Sandbox::new().await.interpreter(&environment).await;
    let mut prewarmed = Sandbox::prewarmed().await.interpreter(&environment).await;
    assert_eq!((cold["ahead"].take(), prewarmed["ahead"].take()), (json!(false), json!(true)));
    assert_eq!(cold["zone"][0], "JST");
    assert_eq!(cold["own"], true);
    assert_eq!(cold, prewarmed);
}

#[tokio::test]
async fn a_function_that_a_prewarmed_interpreter_cannot_become_gets_its_own() {
    let environment = [("LANG", "C")];
    let cold = Sandbox::new().await.interpreter(&environment).await;
    let sandbox = Sandbox::prewarmed().await;
    assert_eq!(sandbox.interpreter(&environment).await, cold);

    // One that has not loaded everything yet is not waited for.
    let mut sandbox = Sandbox::new().await;
    sandbox.send(&HostMessage::Prewarm { runtime: "python3.11".into() }, &[]).await;
    assert_eq!(sandbox.interpreter(&environment).await, cold);
}

#[tokio::test]
async fn a_prewarmed_function_is_restored_and_fails_like_any_other() {
    let mut sandbox = Sandbox::prewarmed().await;
    sandbox.ready("app.handler").await;
    for restore in 1..4 {
        sandbox.snapshot_and_resume().await;
        let seen = sandbox.call("call", json!({"do": "describe"})).await.json();
        assert_eq!(seen["hooks"].as_array().unwrap().len(), 1 + restore);
    }
    let mut sandbox = Sandbox::prewarmed().await;
    sandbox.start("no_import.handler").await;
    let (kind, body, _) = sandbox.failure().await;
    assert_eq!((kind, &body["errorType"]), (FailureKind::Init, &json!("Runtime.ImportModuleError")));
}

#[tokio::test]
async fn a_runtime_that_cannot_be_prewarmed_is_started_with_its_function() {
    let description = format!("exec = [{:?}, \"-m\", \"awslambdaric\"]\n", python());
    let mut sandbox = Sandbox::with_runtime(&description, Reap::Runtime).await;
    sandbox.prewarm().await;
    sandbox.snapshot_and_resume().await;
    sandbox.ready("app.handler").await;
    sandbox.snapshot_and_resume().await;
    assert_eq!(sandbox.call("call-1", json!(1)).await.json(), json!(1));
}

#[tokio::test]
async fn a_runtime_that_ends_before_its_function_came_is_told() {
    let description = "exec = [\"/bin/sh\", \"-c\", \"exit 3\"]\n[prewarm]\n";
    let mut sandbox = Sandbox::with_runtime(description, Reap::Runtime).await;
    sandbox.send(&HostMessage::Prewarm { runtime: "python3.11".into() }, &[]).await;
    let (kind, body, _) = sandbox.failure().await;
    let message = "Error: Runtime exited with error: exit status 3";
    assert_eq!((kind, &body["errorMessage"]), (FailureKind::Exit, &json!(message)));
}

#[tokio::test]
async fn a_hook_that_fails_when_the_event_is_there_fails_that_call() {
    let mut sandbox = Sandbox::resumed("app.handler").await;
    sandbox.call("call-1", json!({"do": "break_hooks"})).await;
    sandbox.snapshot_and_resume().await;
    sandbox.invoke("call-2", &json!({"do": "describe"})).await;
    let (kind, body, output) = sandbox.failure().await;
    assert_eq!(kind, FailureKind::Init);
    assert_eq!((&body["errorType"], &body["errorMessage"]), (&json!("OSError"), &json!("no route")));
    let trace = body["stackTrace"].as_array().unwrap();
    assert!(trace.last().unwrap().as_str().unwrap().contains("raise OSError(\"no route\")"), "{body}");
    assert!(output.contains("[ERROR] OSError: no route"), "{output}");
}

#[tokio::test]
async fn an_exception_comes_with_its_traceback_and_the_next_call_works() {
    let mut sandbox = Sandbox::resumed("app.handler").await;
    let outcome = sandbox.call("call-1", json!({"do": "fail", "message": "broken é"})).await;
    assert_eq!(outcome.kind, ResultKind::Error);
    let error = outcome.json();
    assert_eq!(error["errorType"], "ValueError");
    assert_eq!(error["errorMessage"], "broken é");
    let trace = error["stackTrace"].as_array().unwrap();
    assert!(
        trace.last().unwrap().as_str().unwrap().contains("raise ValueError(event[\"message\"])"),
        "{error}"
    );
    assert!(outcome.stdout.contains("[ERROR] ValueError: broken é"), "{}", outcome.stdout);
    assert_eq!(sandbox.call("call-2", json!("fine")).await.json(), json!("fine"));
}

#[tokio::test]
async fn an_exception_with_a_message_of_megabytes_is_told() {
    let mut sandbox = Sandbox::resumed("app.handler").await;
    for size in [500_000, 3_000_000] {
        let message = "m".repeat(size);
        let outcome = sandbox.call("call", json!({"do": "fail", "message": message.clone()})).await;
        assert_eq!(outcome.json()["errorMessage"], message);
    }
}

#[tokio::test]
async fn all_output_of_a_call_comes_before_its_result() {
    let mut sandbox = Sandbox::resumed("app.handler").await;
    let outcome = sandbox.call("call-1", json!({"do": "chatty", "lines": 5000})).await;
    let lines: Vec<&str> = outcome.stdout.lines().collect();
    assert_eq!(lines.len(), 5003);
    assert_eq!(lines[0], "restored");
    assert!(lines[5000].starts_with("out 4999 "), "{}", lines[5000]);
    assert_eq!(lines[5001..], ["from a thread", "from a child"]);
    assert_eq!(outcome.stderr.lines().count(), 5000);
    let quiet = sandbox.call("call-2", json!(1)).await;
    assert_eq!((quiet.stdout.as_str(), quiet.stderr.as_str()), ("", ""));
}

#[tokio::test]
async fn payloads_at_the_limit_pass() {
    let mut sandbox = Sandbox::resumed("app.handler").await;
    let overhead = json!({"do": "echo_size", "filler": ""}).to_string().len();
    let filler = "f".repeat(MAX_PAYLOAD - overhead);
    let outcome = sandbox.call("call-1", json!({"do": "echo_size", "filler": filler})).await;
    assert_eq!(outcome.json(), json!(MAX_PAYLOAD - overhead));
    let outcome = sandbox.call("call-2", json!({"do": "large", "bytes": MAX_BODY})).await;
    assert_eq!((outcome.kind, outcome.body.len()), (ResultKind::Response, MAX_BODY));
}

#[tokio::test]
async fn a_response_over_the_limit_is_an_error_in_lambdas_words() {
    let mut sandbox = Sandbox::resumed("app.handler").await;
    let outcome = sandbox.call("call-1", json!({"do": "large", "bytes": 7 * 1024 * 1024})).await;
    assert_eq!(outcome.kind, ResultKind::Error);
    let expected = json!({
        "errorType": "Function.ResponseSizeTooLarge",
        "errorMessage": "Response payload size exceeded maximum allowed payload size (6291556 bytes).",
    });
    assert_eq!(outcome.json(), expected);
    // The runtime takes the refusal for its own end, which is known by then.
    assert!(outcome.stdout.contains("Traceback") || outcome.stderr.contains("Traceback"));
    let (kind, body, _) = sandbox.failure().await;
    assert_eq!(kind, FailureKind::Exit);
    assert_eq!(body["errorType"], "Runtime.ExitError");
}

#[tokio::test]
async fn the_end_of_the_process_is_told_in_lambdas_words() {
    for (event, words) in
        [(json!({"do": "leave", "status": 3}), "exit status 3"), (json!({"do": "kill"}), "signal: killed")]
    {
        let mut sandbox = Sandbox::resumed("app.handler").await;
        sandbox.invoke("call-1", &event).await;
        let (kind, body, output) = sandbox.failure().await;
        assert_eq!(kind, FailureKind::Exit);
        let message = format!("RequestId: call-1 Error: Runtime exited with error: {words}");
        assert_eq!(body, json!({"errorType": "Runtime.ExitError", "errorMessage": message}));
        assert_eq!(output.contains("leaving"), event["do"] == "leave");
    }
}

#[tokio::test]
async fn a_process_killed_for_want_of_memory_is_told_with_the_limit() {
    // A process that ends by itself was not killed, whatever the machine says.
    for (event, kind) in [
        (json!({"do": "kill"}), "Runtime.OutOfMemory"),
        (json!({"do": "leave", "status": 3}), "Runtime.ExitError"),
    ] {
        let mut sandbox = Sandbox::new().await;
        sandbox.ready("app.handler").await;
        sandbox.resume(identity(STARVING)).await;
        sandbox.invoke("call-1", &event).await;
        let (failure, body, _) = sandbox.failure().await;
        assert_eq!((failure, body["errorType"].as_str().unwrap()), (FailureKind::Exit, kind));
        let message = body["errorMessage"].as_str().unwrap();
        assert!(message.starts_with("RequestId: call-1 Error: "), "{message}");
        let starved = kind == "Runtime.OutOfMemory";
        assert_eq!(starved, message.contains("128 MB") && message.contains("MemorySize"), "{message}");
        assert_eq!(starved, sandbox.peak_memory_kb == 128 * 1024, "{}", sandbox.peak_memory_kb);
        assert!(sandbox.peak_memory_kb > 1000);
    }
}

#[tokio::test]
async fn a_module_that_does_not_import_fails_to_start() {
    let mut sandbox = Sandbox::new().await;
    sandbox.start("no_import.handler").await;
    let (kind, body, output) = sandbox.failure().await;
    assert_eq!(kind, FailureKind::Init);
    assert_eq!(body["errorType"], "Runtime.ImportModuleError");
    let message = "Unable to import module 'no_import': No module named 'a_module_that_is_not_there'";
    assert_eq!(body["errorMessage"], message);
    assert!(output.contains(message), "{output}");
}

#[tokio::test]
async fn a_handler_that_is_not_there_fails_to_start() {
    for (handler, kind) in
        [("app.nothing", "Runtime.HandlerNotFound"), ("app", "Runtime.MalformedHandlerName")]
    {
        let mut sandbox = Sandbox::new().await;
        sandbox.start(handler).await;
        let (failure, body, _) = sandbox.failure().await;
        assert_eq!((failure, body["errorType"].as_str().unwrap()), (FailureKind::Init, kind));
    }
}

#[tokio::test]
async fn a_process_that_ends_while_it_starts_is_told() {
    let mut sandbox = Sandbox::new().await;
    sandbox.start("leaves.handler").await;
    let (kind, body, _) = sandbox.failure().await;
    assert_eq!(kind, FailureKind::Exit);
    let message = "Error: Runtime exited with error: exit status 3";
    assert_eq!(body, json!({"errorType": "Runtime.ExitError", "errorMessage": message}));
}

#[tokio::test]
async fn a_hook_that_fails_after_the_restore_is_told() {
    let mut sandbox = Sandbox::new().await;
    sandbox.ready("hook_fails.handler").await;
    sandbox.snapshot_and_resume().await;
    sandbox.invoke("call-1", &json!({})).await;
    let (kind, body, _) = sandbox.failure().await;
    assert_eq!(kind, FailureKind::Init);
    assert_eq!(
        (&body["errorType"], &body["errorMessage"]),
        (&json!("RuntimeError"), &json!("no connection"))
    );
}

#[tokio::test]
async fn a_runtime_without_hooks_is_ready_at_its_first_next() {
    let description = format!("exec = [{:?}, \"-m\", \"awslambdaric\"]\n", python());
    let mut sandbox = Sandbox::with_runtime(&description, Reap::Runtime).await;
    assert_eq!(sandbox.ready("app.handler").await, "");
    sandbox.snapshot_and_resume().await;
    let seen = sandbox.call("call-1", json!({"do": "describe"})).await.json();
    assert_eq!((&seen["hooks"], &seen["request_id"]), (&json!([]), &json!("call-1")));
}

#[tokio::test]
async fn a_lost_session_takes_its_call_along() {
    let mut sandbox = Sandbox::resumed("app.handler").await;
    sandbox.invoke("call-1", &json!({"do": "chatty", "lines": 2000})).await;
    sandbox.output().await;
    sandbox.connect().await;
    // Its output may still come, its result must not; `call` would fail on it.
    assert_eq!(sandbox.call("call-2", json!(2)).await.json(), json!(2));
}

#[tokio::test]
async fn a_death_between_sessions_is_told_to_the_next() {
    let mut sandbox = Sandbox::resumed("app.handler").await;
    sandbox.invoke("call-1", &json!({"do": "leave", "status": 1, "after": 0.3})).await;
    sandbox.output().await;
    sandbox.hang_up();
    tokio::time::sleep(Duration::from_secs(1)).await;
    sandbox.connect().await;
    let (kind, body, output) = sandbox.failure().await;
    assert_eq!((kind, &body["errorType"]), (FailureKind::Exit, &json!("Runtime.ExitError")));
    assert!(output.contains("leaving\n"), "{output}");
}

#[tokio::test]
async fn what_cannot_start_is_told() {
    for (description, words) in [
        ("exec = [\"/nonexistent/python\"]", "Cannot start /nonexistent/python: No such file"),
        ("exec = []", "names no program in `exec`"),
        ("nonsense", "is not a runtime description"),
    ] {
        let mut sandbox = Sandbox::with_runtime(description, Reap::Runtime).await;
        sandbox.start("app.handler").await;
        let (kind, body, _) = sandbox.failure().await;
        assert_eq!(kind, FailureKind::Agent);
        assert_eq!(body["errorType"], "Runtime.InvalidEntrypoint");
        assert!(body["errorMessage"].as_str().unwrap().contains(words), "{body}");
    }
}

#[tokio::test]
async fn a_host_that_breaks_the_rules_ends_the_sandbox() {
    let mut sandbox = Sandbox::resumed("app.handler").await;
    sandbox.send(&HostMessage::Invoke { invoke: call("call-1") }, b"{\"do\":\"chatty\",\"lines\":9}").await;
    sandbox.send(&HostMessage::Invoke { invoke: call("call-2") }, b"{}").await;
    let (kind, body, _) = sandbox.failure().await;
    assert_eq!((kind, &body["errorType"]), (FailureKind::Agent, &json!("Sandbox.Protocol")));

    for order in [
        HostMessage::Invoke { invoke: call("call-1") },
        HostMessage::Start { function: function("app.handler"), identity: identity("again") },
    ] {
        let mut sandbox = Sandbox::new().await;
        if matches!(order, HostMessage::Start { .. }) {
            sandbox.ready("app.handler").await;
        }
        sandbox.send(&order, &[]).await;
        let (kind, body, _) = sandbox.failure().await;
        assert_eq!((kind, &body["errorType"]), (FailureKind::Agent, &json!("Sandbox.Protocol")));
    }

    let mut sandbox = Sandbox::new().await;
    sandbox.ready("app.handler").await;
    sandbox.send(&HostMessage::Resume { identity: identity(UNACCEPTABLE) }, &[]).await;
    let (kind, body, _) = sandbox.failure().await;
    assert_eq!((kind, &body["errorType"]), (FailureKind::Agent, &json!("Sandbox.StartFailed")));
}
