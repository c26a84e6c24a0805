"""Helm, the schemas of Kubernetes and CEL, asked about the charts: `MODE` with a question as JSON on stdin, the answer on stdout.

render    [{chart, values, namespace}]   -> [{objects} or {error}], as `helm template` makes them
lint      [chart]                        -> findings of `helm lint --strict` from warnings on
validate  [object]                       -> what the schemas don't allow, strictly, in every version from 1.30 on
cel       {conditions: [{expression}], rules: [{expression, message}], requests: [{object, ...}]}
                                       -> for each request that meets the conditions the first message of a rule that it breaks, or null
"""
import json
import sys

OLDEST = (1, 30)


def render(jobs):
    import yaml
    from helm_python import Chart, HelmError

    def one(job):
        with Chart.load(job["chart"]) as chart:
            try:
                chart.validate_schema(job["values"])
                texts = chart.render(values=job["values"], name="mesh-agent", namespace=job["namespace"])
            except HelmError as error:
                return {"error": str(error)}
            texts = [text for name, text in texts.items() if not name.endswith("NOTES.txt")]
            return {"objects": [object for text in texts for object in yaml.safe_load_all(text) if object]}

    return [one(job) for job in jobs]


def lint(charts):
    from helm_python import chart

    reports = [chart.lint(path, strict=True, kube_version="v1.30.0") for path in charts]
    return [m["error"] for report in reports for m in report["messages"] if m["severity"] > 1]


def validate(objects):
    import kubernetes_validate as schemas
    from kubernetes_validate.utils import all_versions

    found = []
    versions = [v for v in all_versions() if tuple(map(int, v.split(".")[:2])) >= OLDEST]
    assert len(versions) > 3, versions
    for object in objects:
        for version in versions:
            try:
                schemas.validate(object, version, strict=True)
            except schemas.SchemaNotFoundError as error:
                found.append(error.message)
            except schemas.ValidationError as error:
                where = "/".join(map(str, error.path))
                found.append(f"{version} {object['kind']} {object['metadata']['name']} {where}: {error.message}")
    return found


def cel(question):
    import celpy

    environment = celpy.Environment()
    program = lambda rule: environment.program(environment.compile(rule["expression"]))
    conditions = [program(condition) for condition in question["conditions"]]
    rules = [(program(rule), rule["message"]) for rule in question["rules"]]

    def first(request):
        value = {name: celpy.json_to_cel(part) for name, part in request.items()}
        if not all(condition.evaluate(value) for condition in conditions):
            return None
        return next((message for rule, message in rules if not rule.evaluate(value)), None)

    return [first(request) for request in question["requests"]]


answer = {"render": render, "lint": lint, "validate": validate, "cel": cel}[sys.argv[1]](json.load(sys.stdin))
json.dump(answer, sys.stdout)
