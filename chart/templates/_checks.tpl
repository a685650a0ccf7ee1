{{- /*
  Checks that the schema cannot express, because they concern several values or the cluster. Each
  message says what to do.
*/ -}}
{{- define "berth.checks" -}}
{{- $names := list -}}
{{- $defaults := list -}}
{{- range .Values.storageClasses -}}
{{- $names = append $names .name -}}
{{- if .defaultClass }}{{ $defaults = append $defaults .name }}{{ end -}}
{{- end -}}
{{- if ne (len $names) (len (uniq $names)) -}}
{{- fail "storageClasses: two classes have the same name: rename one of them" -}}
{{- end -}}
{{- if gt (len $defaults) 1 -}}
{{- fail (printf "storageClasses: only one class can have defaultClass, not %s" (join ", " $defaults)) -}}
{{- end -}}

{{- $data := .Values.persistence -}}
{{- if and $data.existingClaim $data.hostPath -}}
{{- fail "persistence.existingClaim and persistence.hostPath exclude each other: set only one of them" -}}
{{- end -}}
{{- if $data.hostPath -}}
{{- if not (or .Values.nodeSelector .Values.affinity) -}}
{{- fail "persistence.hostPath is a directory of one node: select that node with nodeSelector (such as kubernetes.io/hostname) or affinity, or the pod may start on a node without the data" -}}
{{- end -}}
{{- else if $data.existingClaim -}}
{{- $claim := lookup "v1" "PersistentVolumeClaim" .Release.Namespace $data.existingClaim -}}
{{- if has (dig "spec" "storageClassName" "" $claim) $names -}}
{{- fail (printf "persistence.existingClaim %s belongs to a StorageClass of Berth itself, which cannot store its data on its own volumes: name another claim" $data.existingClaim) -}}
{{- end -}}
{{- else if has $data.storageClass $names -}}
{{- fail (printf "persistence.storageClass %s is a StorageClass of Berth itself, which cannot store its data on its own volumes: name another class" $data.storageClass) -}}
{{- else if and $defaults (not $data.storageClass) -}}
{{- fail (printf "storageClasses: %s becomes the cluster's default class: set persistence.storageClass to the class of Berth's own disk" (first $defaults)) -}}
{{- end -}}

{{- range .Values.extraArgs -}}
{{- $option := regexFind "^--[a-z-]+" . -}}
{{- if has $option (list "--volumes" "--admin" "--admin-host" "--admin-socket" "--exports" "--provisioner" "--nfs-server" "--nfs-service" "--kubeconfig" "--namespaces" "--lease-name" "--lease-namespace" "--purge-rate" "--recount" "--overcommit" "--grace" "--log-format") -}}
{{- fail (printf "extraArgs: the chart sets %s itself: use the value of the chart that configures it, if there is one" $option) -}}
{{- end -}}
{{- end -}}

{{- $end := .Values.terminationGracePeriodSeconds -}}
{{- if and (not (kindIs "invalid" $end)) (le (int64 $end) (int64 .Values.grace)) -}}
{{- fail (printf "terminationGracePeriodSeconds (%v) must be more than grace (%v), or calls in progress are cut off: raise it" $end .Values.grace) -}}
{{- end -}}
{{- end -}}
