{{/* The image of every container. */}}
{{- define "mesh-agent.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{/* Labels of every object. */}}
{{- define "mesh-agent.labels" -}}
app.kubernetes.io/part-of: mesh-agent
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | quote }}
{{- end -}}

{{/* What tells agents from all other pods. */}}
{{- define "mesh-agent.agent.selector" -}}
app.kubernetes.io/name: mesh-agent
app.kubernetes.io/component: agent
{{- end -}}

{{/* What tells controllers from all other pods. */}}
{{- define "mesh-agent.controller.selector" -}}
app.kubernetes.io/name: mesh-agent
app.kubernetes.io/component: controller
{{- end -}}

{{/* Who signs. */}}
{{- define "mesh-agent.ca" -}}
{{- if .Values.agent.ca -}}
{{ .Values.agent.ca }}
{{- else if .Values.controller.enabled -}}
istio:https://mesh-agent-controller.{{ .Release.Namespace }}.svc:15012
{{- else -}}
{{ fail "agent.ca is empty and controller.enabled is false: name who signs certificates" }}
{{- end -}}
{{- end -}}

{{/* The agent's configuration file. */}}
{{- define "mesh-agent.config" -}}
source: kube
procDir: /host/proc
stateDir: /run/mesh-agent
bpffsDir: /sys/fs/bpf/mesh-agent
metricsAddress: {{ printf "0.0.0.0:%v" .Values.agent.metricsPort | quote }}
trustDomain: {{ .Values.trustDomain | quote }}
ca: {{ include "mesh-agent.ca" . | quote }}
istioTokenFile: /var/run/secrets/tokens/mesh-agent
istioRootCertFile: /etc/mesh-agent/trust/root-cert.pem
whenReplaced: wait
log: {{ .Values.agent.log | quote }}
{{- range $key, $value := .Values.agent.config }}
{{ $key }}: {{ $value | toJson }}
{{- end }}
{{- end -}}

{{/* Where the API server is, for pods on the host's network. */}}
{{- define "mesh-agent.apiServer" -}}
{{- with .Values.kubernetesService.host }}
- name: KUBERNETES_SERVICE_HOST
  value: {{ . | quote }}
{{- end }}
{{- with .Values.kubernetesService.port }}
- name: KUBERNETES_SERVICE_PORT
  value: {{ . | quote }}
{{- end }}
{{- end -}}
