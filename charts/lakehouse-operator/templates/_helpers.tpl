{{/* Labels of every object. Call with (dict "root" $ "component" "operator"). */}}
{{- define "operator.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/part-of: lakehouse
{{ include "operator.selector" . }}
{{- end }}

{{/* Labels that choose the pods of one component. */}}
{{- define "operator.selector" -}}
app.kubernetes.io/name: lakehouse-{{ .component }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- end }}

{{/* Name of the operator's own objects: there may be several releases in one namespace. */}}
{{- define "operator.name" -}}
{{ .Release.Name | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* Full image name. Call with (dict "root" $ "image" .Values.image). */}}
{{- define "operator.image" -}}
{{- $registry := trimSuffix "/" .root.Values.imageRegistry -}}
{{- with $registry }}{{ . }}/{{ end }}{{ .image.repository }}
{{- if .image.digest }}@{{ .image.digest }}{{ else }}:{{ .image.tag | default .root.Chart.AppVersion }}{{ end }}
{{- end }}

{{/* Labels that the operator gives the pods of all its Jobs. */}}
{{- define "operator.jobs" -}}
app.kubernetes.io/managed-by: lakehouse-operator
app.kubernetes.io/part-of: lakehouse
{{- end }}

{{/*
Ends where values are missing that every release of this chart has: those of an older chart were taken over without the defaults that came since.
Without it the first template that reads one would end with "nil pointer", which tells nobody what to do.
*/}}
{{- define "operator.complete" -}}
{{- $values := .Values -}}
{{- range list "replicas" "leaderElection" "metrics" "tracing" "networkPolicy" "podDisruptionBudget" -}}
{{- if kindIs "invalid" (index $values .) -}}
{{- fail (printf "the value %q is missing: the values of an older chart were reused without the defaults of this one; upgrade with --reset-then-reuse-values instead of --reuse-values" .) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* A list of TCP ports, as NetworkPolicies have it. Call with the list of numbers and of ranges such as "8000-8999". */}}
{{- define "operator.ports" -}}
{{- range . }}
{{- $ends := splitList "-" (toString .) }}
- {protocol: TCP, port: {{ first $ends }}{{ with rest $ends }}, endPort: {{ first . }}{{ end }}}
{{- end }}
{{- end }}

{{/* What Jobs and operator reach: names, and the services that Lakehouses name. */}}
{{- define "operator.egress" -}}
{{- $policy := .Values.networkPolicy -}}
- to:
    - namespaceSelector:
        matchLabels: {kubernetes.io/metadata.name: {{ $policy.dnsNamespace }}}
  ports:
    - {protocol: UDP, port: 53}
    - {protocol: TCP, port: 53}
- to:
    {{- range $policy.services.namespaces | default (list .Release.Namespace) }}
    - namespaceSelector:
        matchLabels: {kubernetes.io/metadata.name: {{ . }}}
    {{- end }}
    {{- range $policy.services.networks }}
    - ipBlock: {cidr: {{ . | quote }}}
    {{- end }}
  ports:
    {{- include "operator.ports" $policy.services.ports | nindent 4 }}
{{- end }}

{{/* The namespaces that the operator acts on, as a JSON list under "list". */}}
{{- define "operator.namespaces" -}}
{{ dict "list" (.Values.watchNamespaces | default (list .Release.Namespace)) | toJson }}
{{- end }}

{{/* Pod fields that every pod shares. */}}
{{- define "operator.pod" -}}
enableServiceLinks: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  seccompProfile:
    type: RuntimeDefault
{{- end }}

{{/* Pod Security "restricted" for a container. */}}
{{- define "operator.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}
