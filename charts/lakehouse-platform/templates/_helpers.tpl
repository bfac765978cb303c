{{/* Labels of every object. Call with (dict "root" $ "component" "minio"). */}}
{{- define "platform.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/part-of: lakehouse
{{ include "platform.selector" . }}
{{- end }}

{{/* Labels that choose the pods of one component. */}}
{{- define "platform.selector" -}}
app.kubernetes.io/name: {{ .component }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- end }}

{{/* Full image name. Call with (dict "root" $ "image" .Values.minio.image). */}}
{{- define "platform.image" -}}
{{- $registry := trimSuffix "/" .root.Values.imageRegistry -}}
{{- with $registry }}{{ . }}/{{ end }}{{ .image.repository }}:{{ .image.tag | default .root.Chart.AppVersion }}
{{- end }}

{{/* Pod fields of a pod that does not talk to the Kubernetes API, beside its own user. */}}
{{- define "platform.pod" -}}
automountServiceAccountToken: false
{{ include "platform.everyPod" . }}
{{- end }}

{{/* Pod fields that every pod shares. */}}
{{- define "platform.everyPod" -}}
enableServiceLinks: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{/* Pod Security "restricted" for a pod. Call with the numeric user. */}}
{{- define "platform.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ . }}
runAsGroup: {{ . }}
fsGroup: {{ . }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{/* Pod Security "restricted" for a container. */}}
{{- define "platform.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- define "platform.minioSecret" -}}
{{ .Values.minio.existingSecret | default "minio-credentials" }}
{{- end }}

{{- define "platform.catalogSecret" -}}
{{ .Values.postgres.existingSecret | default "catalog" }}
{{- end }}

{{/* What a claim says of its StorageClass: nothing, where the cluster's default is meant. */}}
{{- define "platform.claim" -}}
accessModes: [ReadWriteOnce]
{{- with .storageClassName }}
storageClassName: {{ . }}
{{- end }}
resources:
  requests:
    storage: {{ .size }}
{{- end }}
