use super::*;

fn begin() -> Arc<Explanation> {
    Explanation::begin("users", Instant::now(), "src/service.rs", "the packet is read".to_owned())
}

#[test]
fn steps_come_in_order_and_survive_their_json_form() {
    let explanation = begin();
    explanation.add_in_database("src/users/sqlite/reads.rs", "one row is read".to_owned());
    explanation.add_sent(
        "src/net/link.rs",
        "127.0.0.1:9020",
        "sends the request".to_owned(),
        "{\"key\":1,\"token\":\"x\"}¶".as_bytes(),
    );
    let steps = explanation.steps();
    assert!(steps.is_sorted_by_key(|step| step.at_us));
    assert_eq!(steps[0].place.as_deref(), Some("users"));
    assert_eq!(steps[1].place.as_deref(), Some(DATABASE));
    let packet = steps[2].packet.as_ref().unwrap();
    assert_eq!((packet.bytes, packet.packet.as_str()), (23, r#"{"key":1,"token":"***"}"#));
    let json = serde_json::to_string(&steps).unwrap();
    assert!(json.contains(r#""to":"127.0.0.1:9020","bytes":23,"packet":"{"#), "{json}");
    assert_eq!(serde_json::from_str::<Vec<Step>>(&json).unwrap(), steps);
}

#[test]
fn a_reply_loses_its_steps_and_nothing_else() {
    let service = begin();
    let mut frame = r#"{"key":1,"errorcode":0,"results":{"explain":[1]}}¶"#.as_bytes().to_vec();
    add_to_reply(&mut frame, &service);
    let frame = String::from_utf8(frame).unwrap();
    let reply = frame.strip_suffix('¶').unwrap();
    assert_eq!(without_explanation(reply), r#"{"key":1,"errorcode":0,"results":{"explain":[1]}}"#);
    let caller = begin();
    caller.add_received("src/net/call.rs", "127.0.0.1:9020", "the reply".to_owned(), reply);
    assert_eq!(caller.steps()[1].explain, service.steps());
    for other in [r#"{"key":1}"#, r#"{"explain" : 5,"key":1}"#, "null", "¶"] {
        assert_eq!(without_explanation(other), other);
        assert_eq!(steps_in(other), None);
    }
}

#[test]
fn an_explanation_has_a_limit_of_steps() {
    let explanation = begin();
    (0..200).for_each(|number| explanation.add("src/mesh.rs", format!("step {number}")));
    let steps = explanation.steps();
    assert_eq!(steps.len(), MAX_STEPS);
    assert_eq!(steps[MAX_STEPS - 1].text, "the next steps are left out");
}

#[test]
fn an_explanation_has_a_limit_of_bytes_however_deep_the_calls_are() {
    let mut reply = String::from(r#"{"key":1}"#);
    for _ in 0..20 {
        let explanation = begin();
        for _ in 0..10 {
            let long = format!("{{\"name\":\"{}\"}}", "x".repeat(900));
            explanation.add_sent("src/net/link.rs", "127.0.0.1:9", "sends".to_owned(), long.as_bytes());
            explanation.add_received("src/net/call.rs", "127.0.0.1:9", "receives".to_owned(), &reply);
        }
        let steps = explanation.steps();
        assert!(steps.iter().map(Step::size).sum::<usize>() <= MAX_BYTES + MAX_STEPS * 64);
        reply = format!(r#"{{"key":1,"explain":{}}}"#, serde_json::to_string(&steps).unwrap());
    }
    assert!(reply.len() < 4 * MAX_BYTES, "{}", reply.len());
}
