//! `route test`: asked of an agent, and of a directory.

use super::*;

/// With `routed.yaml` in `DIR`; without the warnings, whose columns are as wide as the directory's name is long.
fn asked(line: &str) -> Printed {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("routed.yaml"), include_str!("routed.yaml")).unwrap();
    let mut printed = cli_in(dir.path(), &format!("route test {line} --source DIR --color never"));
    if let Some((shown, _)) = printed.stdout.split_once("\nWarnings:") {
        printed.stdout = shown.to_owned();
    }
    printed
}

#[test]
fn a_request_is_shown_with_its_rule_its_backends_and_what_else_was_considered() {
    let printed = asked("--from pod/shop/web-1 http://cart/api/x?a=1 -H x-beta:yes");
    assert_eq!(printed.exit, Exit::Ok, "{}", printed.stderr);
    insta::assert_snapshot!(printed.stdout, @r"
    From:        shop/web-1
    Request:     GET /api/x?a=1
    To:          10.96.0.10:80, Service shop/cart port 80 (http)
    Result:      routed by HTTPRoute shop/cart, rule beta (producer route)
    Matched:     PathPrefix /api, GET, header x-beta=yes
    Filter:      request header: set x-env: prod
    Filter:      request header: remove x-beta
    Filter:      rewrite prefix to /v2

    Sent:
      GET /v2/x?a=1
      host: cart
      x-env: prod

    In force:
      WHAT          HOW                                                                                          FROM
      timeout       10s for the request, tries included                                                          HTTPRoute shop/cart
      try timeout   2s for one try                                                                               HTTPRoute shop/cart
      retry         3 on connect-failure, reset, 502, 503; back-off at least 100ms, and up to 100ms to 1s more   HTTPRoute shop/cart

    Backends:
      SERVICE        PORT   WEIGHT   SHARE   ENDPOINTS                     FILTERS   PROBLEM
      shop/cart      80     90       90%     10.1.0.8:8080,10.1.0.9:8080   -         -
      shop/cart-v2   80     10       10%     10.1.1.8:8080                 -         -

    Considered, in order of precedence:
      ROUTE                 RULE    MATCH                                     RESULT
      HTTPRoute shop/cart   moved   Exact /old                                no: path
      HTTPRoute shop/cart   beta    PathPrefix /api, GET, header x-beta=yes   taken
      HTTPRoute shop/cart   1       PathPrefix /api, GET                      matches, but comes later
    ");
}

#[test]
fn a_redirect_is_shown_with_its_location() {
    let printed = asked("--from pod/shop/web-1 cart.shop.svc/old");
    assert_eq!(printed.exit, Exit::Ok, "{}", printed.stderr);
    insta::assert_snapshot!(printed.stdout, @r"
    From:        shop/web-1
    Request:     GET /old
    To:          10.96.0.10:80, Service shop/cart port 80 (http)
    Result:      answered by the agent with 302 Found by HTTPRoute shop/cart, rule moved (producer route)
    Matched:     Exact /old
    Filter:      redirect with 302
    Answer:      302
                 location: http://cart.shop.svc/new

    Considered, in order of precedence:
      ROUTE                 RULE    MATCH                                     RESULT
      HTTPRoute shop/cart   moved   Exact /old                                taken
      HTTPRoute shop/cart   beta    PathPrefix /api, GET, header x-beta=yes   no: path, header x-beta (absent)
      HTTPRoute shop/cart   1       PathPrefix /api, GET                      no: path
    ");
}

#[test]
fn no_match_exits_3_and_nonsense_65() {
    let check = |line: &str, exit: Exit, part: &str| {
        let printed = asked(line);
        let all = printed.stdout + &printed.stderr;
        assert!(printed.exit == exit && all.contains(part), "{line}: {:?} {all}", printed.exit);
    };
    let web = "--from pod/shop/web-1";
    check(&format!("{web} http://cart/none -X POST"), Exit::No, "no rule matches: answered with 404");
    check(&format!("{web} tcp://db:5432"), Exit::No, "no rule matches: the connection is refused");
    check(&format!("{web} http://10.1.0.8:8080"), Exit::Ok, "a direct call to a pod isn't routed");
    check(&format!("{web} http://plain"), Exit::Ok, "no route: balanced");
    check(&format!("{web} ftp://cart"), Exit::BadInput, "expected http://");
    check("--from pod/shop/none http://cart", Exit::Failed, "there is no pod shop/none");
    check("http://cart", Exit::Usage, "--from");
}

#[test]
fn the_agent_answers_by_what_it_has_in_force() {
    let fixture = Fixture::start();
    let live = good(&fixture, "route test --from pod/shop/web-1 http://cart/x -o json");
    assert!(live.contains("\"outcome\": \"routed\"") && live.contains("10.1.0.2:8080"), "{live}");
    // It runs with registryOnly.
    let unknown = cli(&fixture, "route test --from pod/shop/web-1 http://192.0.2.1/");
    assert_eq!(unknown.exit, Exit::No, "{}", unknown.stdout);
    assert_eq!(cli(&fixture, "route test --from pod/shop/none http://cart").exit, Exit::Failed);
    assert_eq!(cli(&fixture, "route test --from pod/shop/web-1 ftp://cart").exit, Exit::BadInput);
}
