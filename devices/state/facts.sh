#!/bin/sh
# What a device is, and how it is just now: one "KEY<tab>VALUE" line each. Only looks, changes nothing.
#
#   facts.sh facts ROOT [SYSTEM]         what stays: system, processor, memory, Python, tools, room at ROOT
#   facts.sh environment ROOT [SYSTEM]   what changes: frequencies, temperatures, load, free memory, battery
#
# What is missing or unreadable is left out. POSIX sh with what dash, busybox, Android's mksh and macOS share, and few processes:
# files are read by the shell itself, and everything found so is printed at once. SYSTEM is a folder to take for "/".
# The other half, which judges the values, is facts.py and environment.py.

exec 2>/dev/null
part=$1 root=$2 base=$3 out=
tab='	' line='
'
cpus=$base/sys/devices/system/cpu

put() { # KEY VALUE
    [ -z "$2" ] || out=$out$1$tab$2$line
}

get() { # FILE: its first line in $value
    value=
    [ -r "$1" ] && read -r value < "$1"
}

put_file() { # KEY FILE
    get "$2"
    put "$1" "$value"
}

each() { # KEY: the lines of standard input, each with KEY before it
    sed -e "s/^/$1$tab/" -e 200q
    echo # some of them end without a newline
}

system() {
    set -- $(uname -srm)
    put system "$1"
    put kernel "$2"
    put machine "$3"
}

release() {
    while IFS='=' read -r name value; do
        [ "$name" != PRETTY_NAME ] || put release "$value"
    done < "$base/etc/os-release"
    put_file board "$base/proc/device-tree/model"
    put_file board "$base/sys/class/dmi/id/product_name"
    put_file jetson "$base/etc/nv_tegra_release"
    put_file boot "$base/proc/sys/kernel/random/boot_id"
    put_file online "$cpus/online"
}

memory() { # NAME...: of /proc/meminfo, the last of them last
    while read -r name value unit; do
        case " $* " in *" ${name%:} "*) put "${name%:}" "$value" ;; esac
        case "$name" in MemAvailable: | SwapTotal:) break ;; esac
    done < "$base/proc/meminfo"
}

processors() {
    sed -n -e "s/^processor/cpuinfo$tab&/p" -e "s/^CPU implementer/cpuinfo$tab&/p" -e "s/^CPU part/cpuinfo$tab&/p" \
        -e "s/^model name/cpuinfo$tab&/p" -e "s/^Hardware/cpuinfo$tab&/p" "$base/proc/cpuinfo" | sed 2000q
    flags=" $(grep -m 1 -E '^(flags|Features)' "$base/proc/cpuinfo") "
    found=
    for flag in neon asimd fphp asimdhp asimddp i8mm bf16 sve sve2 sme sme2 sse4_1 avx avx2 fma avx_vnni avx512f avx512_vnni \
        avx512_bf16 avx512_fp16 amx_int8 amx_bf16 hypervisor; do
        case "$flags" in *" $flag "*) found="$found $flag" ;; esac
    done
    put features "${found# }"
    for cpu in "$cpus"/cpu[0-9]*; do
        get "$cpu/cpufreq/cpuinfo_max_freq"
        put top "${value:+${cpu##*/cpu} $value}"
    done
}

climb() { # TOP POINT PATH: the quotas of the group PATH and of those above it, as far as the mount of TOP at POINT shows them
    path=${3#"${1%/}"}
    path=${path%/}
    case $path in */..*) path= ;; esac # a group outside what is shown here
    while :; do
        get "$base$2$path/cpu.max"
        case $value in "" | max*) ;; *) put quota "cpu.max $value" ;; esac
        get "$base$2$path/cpu.cfs_quota_us"
        quota=$value
        get "$base$2$path/cpu.cfs_period_us"
        case $quota in "" | -*) ;; *) put quota "cpu.cfs_quota_us $quota $value" ;; esac
        case $path in */*) path=${path%/*} ;; *) return ;; esac
    done
}

limits() { # the shell's own are those of whatever the same login starts
    while IFS=: read -r number controllers path; do
        case ,$controllers, in
            ,,) second=$path ;;
            *,cpu,*) first=$path ;;
        esac
    done < "$base/proc/self/cgroup"
    while read -r id parent device top point rest; do
        kind=${rest##* - }
        case ${kind%% *},${rest##* }, in
            cgroup2,*) climb "$top" "$point" "$second" ;;
            cgroup,*,cpu,*) climb "$top" "$point" "$first" ;;
        esac
    done < "$base/proc/self/mountinfo"
    while read -r name value; do
        [ "$name" != Cpus_allowed_list: ] || put allowed "$value"
    done < "$base/proc/self/status"
}

python() {
    path=$(command -v python3) && version=$(python3 -V) || return # one that does not start is none
    put python "$path"
    put python_version "$version"
}

library() {
    put libc "$(getconf GNU_LIBC_VERSION)"
    for file in "$base"/lib/ld-musl-*; do
        [ ! -e "$file" ] || put libc musl
    done
}

room() {
    folder=$root
    while [ -n "$folder" ] && [ ! -d "$folder" ]; do folder=${folder%/*}; done
    df -Pk "${folder:-/}" | { read -r header; read -r disk blocks used free rest; [ -z "$free" ] || echo "free$tab$free"; }
}

tools() {
    for tool in benchmark_model onnxruntime_perf_test trtexec; do
        path=$(command -v "$tool")
        for file in "$root/tools/$tool" "$root/tools/"*_"$tool" "$base/data/local/tmp/$tool" "$base/data/local/tmp/"*_"$tool" \
            "$path" "$base/usr/src/tensorrt/bin/$tool"; do
            if [ -f "$file" ] && [ -x "$file" ]; then
                put tool "$tool $file"
                break
            fi
        done
    done
}

batteries() {
    for supply in "$base"/sys/class/power_supply/*; do
        get "$supply/type"
        [ "$value" = Battery ] || continue
        put_file battery_level "$supply/capacity"
        put_file battery_status "$supply/status"
        put_file battery_tenths "$supply/temp"
        [ -z "$value" ] || break
    done
}

frequencies() { # a line for each CPU: number, governor, current, lowest, highest, and the most it can, in kHz
    for cpu in "$cpus"/cpu[0-9]*; do
        row=${cpu##*/cpu}
        for name in scaling_governor scaling_cur_freq scaling_min_freq scaling_max_freq cpuinfo_max_freq; do
            get "$cpu/cpufreq/$name"
            row="$row ${value:--}"
        done
        [ "${row#* }" = "- - - - -" ] || put cpu "$row"
        for name in core package; do
            get "$cpu/thermal_throttle/${name}_throttle_count"
            put throttled "${value:+cpu${cpu##*/cpu}/$name $value}"
        done
    done
    put_file no_turbo "$cpus/intel_pstate/no_turbo"
    put_file boost "$cpus/cpufreq/boost"
}

temperatures() {
    for zone in "$base"/sys/class/thermal/thermal_zone*; do
        get "$zone/temp"
        [ -n "$value" ] || continue
        degrees=$value
        get "$zone/type"
        put temperature "$degrees ${zone##*/thermal_} $value"
    done
    command -v vcgencmd >/dev/null && put raspberry "$(vcgencmd get_throttled)"
}

facts() {
    system
    release
    memory MemTotal
    processors
    limits
    python
    library
    tools
    batteries
    printf '%s' "$out"
    room
    command -v getprop >/dev/null && getprop | sed -n -e "/^\[ro\.product\./s/^/getprop$tab/p" \
        -e "/^\[ro\.build\.version\./s/^/getprop$tab/p" -e "/^\[ro\.soc\./s/^/getprop$tab/p" -e 3000q
    command -v sw_vers >/dev/null && {
        sw_vers -productVersion | each macos
        sysctl hw.model hw.memsize hw.ncpu hw.optional.arm machdep.cpu.brand_string kern.bootsessionuuid | each sysctl
    }
}

environment() {
    frequencies
    temperatures
    put_file load "$base/proc/loadavg"
    put_file uptime "$base/proc/uptime"
    put_file online "$cpus/online"
    limits
    memory MemTotal MemAvailable
    batteries
    printf '%s' "$out"
    command -v dumpsys >/dev/null && {
        dumpsys -t 5 thermalservice | each thermalservice
        dumpsys -t 5 battery | each battery
    }
    command -v pmset >/dev/null && {
        sysctl vm.loadavg hw.ncpu | each sysctl
        pmset -g batt | each pmset
        pmset -g therm | each pmset
    }
}

printf 'edgeopt\t1\n'
"$part"
printf 'end\t1\n'
