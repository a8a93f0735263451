//! Conversations with a machine that only pretends.

use super::*;
use crate::testing::FakeVm;
use serde_json::Value;

struct Talk {
    vm: Arc<FakeVm>,
    session: Session,
}

impl Talk {
    /// A conversation after the negotiation.
    fn new() -> Self {
        let mut t = Self::fresh();
        assert_eq!(t.say("{'execute':'qmp_capabilities'}"), [json!({"return": {}})]);
        t
    }

    fn fresh() -> Self {
        let vm = Arc::new(FakeVm::default());
        let mut session = Session::new(Control::new(vm.clone()), false);
        let mut out = Vec::new();
        session.opened(&mut out);
        let greeting: Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(greeting["QMP"]["capabilities"], json!([]));
        assert_eq!(greeting["QMP"]["version"]["qemu"]["major"], json!(10));
        Self { vm, session }
    }

    fn bytes(&mut self, data: &[u8]) -> Vec<Value> {
        let mut out = Vec::new();
        self.session.input(data, &mut out);
        String::from_utf8(out)
            .unwrap()
            .split_terminator("\r\n")
            .map(|l| serde_json::from_str(l).unwrap())
            .collect()
    }

    fn say(&mut self, text: &str) -> Vec<Value> {
        self.bytes(text.as_bytes())
    }

    fn ok(&mut self, text: &str) -> Value {
        let mut answers = self.say(text);
        assert_eq!(answers.len(), 1, "{answers:?}");
        answers[0]["return"].take()
    }

    fn err(&mut self, text: &str) -> (String, String) {
        let answers = self.say(text);
        assert_eq!(answers.len(), 1, "{answers:?}");
        let e = &answers[0]["error"];
        (e["class"].as_str().unwrap().into(), e["desc"].as_str().unwrap().into())
    }
}

#[test]
fn negotiation_comes_first() {
    let mut t = Talk::fresh();
    assert_eq!(t.err("{'execute':'stop'}").0, "CommandNotFound");
    assert_eq!(
        t.err("{'execute':'qmp_capabilities','arguments':{'enable':['oob']}}").1,
        "capability \"oob\" is not offered"
    );
    assert_eq!(t.ok("{'execute':'qmp_capabilities','arguments':{'enable':[]}}"), json!({}));
    assert_eq!(t.err("{'execute':'qmp_capabilities'}").0, "CommandNotFound");
    let mut out = Vec::new();
    t.session.opened(&mut out);
    assert_eq!(t.err("{'execute':'stop'}").0, "CommandNotFound", "a new client negotiates again");
}

#[test]
fn run_state_and_ids() {
    let mut t = Talk::new();
    assert_eq!(t.ok("{'execute':'query-status'}"), json!({"running": true, "status": "running"}));
    assert_eq!(t.say("{'execute':'stop','id':[1,'a']}"), [json!({"return": {}, "id": [1, "a"]})]);
    assert_eq!(t.ok("{'execute':'query-status'}"), json!({"running": false, "status": "paused"}));
    assert_eq!(t.ok("{'execute':'cont'}"), json!({}));
    let answers = t.say("{'execute':'nope','id':7}");
    assert_eq!(answers[0]["id"], json!(7));
    assert_eq!(answers[0]["error"]["class"], json!("CommandNotFound"));
}

#[test]
fn errors_have_classes_and_names() {
    let mut t = Talk::new();
    for (text, class, desc) in [
        ("{'execute':'stopp'}", "CommandNotFound", "command 'stopp' is not known; did you mean 'stop'?"),
        ("{'execute':'stop','arguments':{'x':1}}", "GenericError", "argument 'x' is not known"),
        ("{'execute':'qom-get','arguments':{'path':'/'}}", "GenericError", "argument 'property' is missing"),
        (
            "{'execute':'qom-get','arguments':{'path':1,'property':'x'}}",
            "GenericError",
            "argument 'path' expects a string",
        ),
        (
            "{'execute':'qom-list','arguments':{'pat':'/'}}",
            "GenericError",
            "argument 'pat' is not known; did you mean 'path'?",
        ),
        ("{'execute':'qom-list','arguments':{'path':'/x'}}", "DeviceNotFound", "Device '/x' not found"),
        (
            "{'execute':'device_add','arguments':{'driver':'d','id':'i','speed':3}}",
            "GenericError",
            "hot plug of 'd' is not supported by this machine",
        ),
        (
            "{'execute':'device_del','arguments':{'id':'i'}}",
            "GenericError",
            "hot unplug of 'i' is not supported by this machine",
        ),
        ("{'execute':1}", "GenericError", "'execute' expects a string"),
        ("{'exec-oob':'stop'}", "GenericError", "'exec-oob' was not negotiated"),
        ("{}", "GenericError", "'execute' is missing"),
        ("[]", "GenericError", "expected a JSON object"),
        (
            "{'execute':'stop','foo':1}",
            "GenericError",
            "member 'foo' is not known; known: execute, arguments, id",
        ),
        ("{'execute':'stop','arguments':1}", "GenericError", "'arguments' expects an object"),
        ("{'execute' 'stop'}", "GenericError", "JSON: expected ':' at byte 11, found '\\''"),
        (
            "{'execute':'human-monitor-command','arguments':{'command-line':'x','cpu-index':9}}",
            "GenericError",
            "'cpu-index' expects a vCPU below 2, got 9",
        ),
    ] {
        assert_eq!(t.err(text), (class.into(), desc.into()), "{text}");
    }
}

#[test]
fn a_session_survives_bad_json() {
    let mut t = Talk::new();
    assert_eq!(t.say("hello\n{'execute':'query-name'}").len(), 2);
    let answers = t.bytes(b"{'execute':\xff{'execute':'query-name'}");
    assert_eq!(answers[0]["error"]["desc"], json!("JSON: message was cut short"));
    assert_eq!(answers[1]["return"], json!({"name": "fake"}));
    // Byte by byte is the same.
    let mut n = 0;
    for b in b"{ \"execute\" : \"query-uuid\" }" {
        n += t.bytes(&[*b]).len();
    }
    assert_eq!(n, 1);
}

#[test]
fn events_reach_negotiated_sessions_only() {
    let mut t = Talk::fresh();
    let mut out = Vec::new();
    t.session.event(&Event::stop(), &mut out);
    assert!(out.is_empty());
    t.say("{'execute':'qmp_capabilities'}");
    t.session.event(&Event::shutdown("guest-shutdown"), &mut out);
    let event: Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(event["event"], "SHUTDOWN");
    assert_eq!(event["data"], json!({"guest": true, "reason": "guest-shutdown"}));
    assert!(event["timestamp"]["seconds"].is_u64() && event["timestamp"]["microseconds"].is_u64());
}

#[test]
fn quit_waits_for_its_answer() {
    let mut t = Talk::new();
    assert_eq!(t.ok("{'execute':'quit'}"), json!({}));
    assert!(t.session.wants_quit());
    assert!(t.vm.calls().is_empty());
}

#[test]
fn queries() {
    let mut t = Talk::new();
    assert_eq!(
        t.ok("{'execute':'query-cpus-fast'}")[1],
        json!({
            "cpu-index": 1, "qom-path": "/machine/cpu[1]", "thread-id": 101, "target": "riscv64",
            "props": {"socket-id": 0, "core-id": 1, "thread-id": 0},
        })
    );
    assert_eq!(t.ok("{'execute':'query-kvm'}"), json!({"enabled": false, "present": false}));
    assert_eq!(t.ok("{'execute':'query-target'}"), json!({"arch": "riscv64"}));
    assert_eq!(t.ok("{'execute':'query-machines'}")[0]["is-default"], json!(true));
    assert_eq!(t.ok("{'execute':'query-memory-size-summary'}")["base-memory"], json!(1 << 30));
    assert_eq!(
        t.ok("{'execute':'query-chardev'}"),
        json!([{"label": "serial0", "filename": "null", "frontend-open": true}])
    );
    assert_eq!(
        t.ok("{'execute':'qom-list','arguments':{'path':'/'}}"),
        json!([{"name": "machine", "type": "child<virt>"}])
    );
    assert_eq!(t.ok("{'execute':'qom-get','arguments':{'path':'/m','property':'p'}}"), json!({"/m": "p"}));
    let types = t.ok("{'execute':'qom-list-types','arguments':{'implements':'device'}}");
    assert_eq!(types, json!([{"name": "serial", "parent": "device"}]));
    assert_eq!(
        t.ok("{'execute':'human-monitor-command','arguments':{'command-line':'info status'}}"),
        "VM status: running\n"
    );
    assert_eq!(
        t.ok("{'execute':'ringbuf-read','arguments':{'device':'ring','size':4,'format':'base64'}}"),
        "cmluZw=="
    );
    let commands = t.ok("{'execute':'query-commands'}");
    for name in ["qmp_capabilities", "stop", "query-events", "snapshot-save"] {
        assert!(commands.as_array().unwrap().contains(&json!({ "name": name })), "{name}");
    }
    // Every query without arguments answers, except two about what this machine has not.
    let absent = ["query-balloon", "query-hotpluggable-cpus", "query-acpi-ospm-status"];
    for c in commands.as_array().unwrap() {
        let name = c["name"].as_str().unwrap();
        if name.starts_with("query-") && !absent.contains(&name) {
            assert!(!t.ok(&format!("{{'execute':'{name}'}}")).is_null(), "{name}");
        }
    }
}

#[test]
fn memory_goes_to_files() {
    let mut t = Talk::new();
    let file = std::env::temp_dir().join(format!("rhea-memsave-{}", std::process::id()));
    let path = file.to_str().unwrap();
    t.ok(&format!("{{'execute':'pmemsave','arguments':{{'val':16,'size':4,'filename':'{path}'}}}}"));
    assert_eq!(std::fs::read(&file).unwrap(), [16, 17, 18, 19]);
    std::fs::remove_file(&file).unwrap();
    let e = t.err(&format!("{{'execute':'memsave','arguments':{{'val':255,'size':4,'filename':'{path}'}}}}"));
    assert_eq!(e.1, "no memory at 0xff");
    assert!(!file.exists());
}

#[test]
fn snapshots_are_jobs() {
    let mut t = Talk::new();
    let seen = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let sink = seen.clone();
    t.vm.events.subscribe(move |e| {
        sink.lock().push(e.data["status"].as_str().unwrap().to_owned());
        true
    });
    t.ok("{'execute':'snapshot-save','arguments':{'job-id':'j','tag':'t','vmstate':'d','devices':['d']}}");
    assert_eq!(t.vm.calls(), ["save t of d, state in d, replace false"]);
    assert_eq!(*seen.lock(), ["created", "running", "waiting", "pending", "concluded"]);
    assert_eq!(
        t.err("{'execute':'snapshot-save','arguments':{'job-id':'j','tag':'t'}}").1,
        "job id 'j' is in use"
    );
    t.ok("{'execute':'snapshot-load','arguments':{'job-id':'k','tag':'u'}}");
    let jobs = t.ok("{'execute':'query-jobs'}");
    assert_eq!(
        (&jobs[0]["status"], &jobs[1]["error"]),
        (&json!("concluded"), &json!("snapshot 'u' not found"))
    );
    t.ok("{'execute':'job-dismiss','arguments':{'id':'j'}}");
    assert_eq!(t.err("{'execute':'job-dismiss','arguments':{'id':'j'}}").1, "job 'j' not found");
}

#[test]
fn random_bytes_never_panic() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let pieces: [&[u8]; 22] = [
        b"{",
        b"}",
        b"[",
        b"]",
        b"'",
        b"\"",
        b":",
        b",",
        b"execute",
        b"'execute':'stop'",
        b"\\",
        b"\\u",
        b"d800",
        b"\n",
        b"\xff",
        b"\x80",
        b"1e9",
        b"-",
        b"null",
        b"\0",
        b"'arguments':{",
        b" ",
    ];
    let mut t = Talk::new();
    for _ in 0..20_000 {
        let mut data = Vec::new();
        for _ in 0..random() % 12 {
            data.extend_from_slice(pieces[random() as usize % pieces.len()]);
        }
        t.bytes(&data);
    }
    // It still works.
    assert_eq!(t.bytes(b"\xff\n{'execute':'query-name'}").last().unwrap()["return"], json!({"name": "fake"}));
}
