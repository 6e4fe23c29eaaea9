// The live page: one application with a page for each vantage. What is pushed is shown at once; where nothing can be
// pushed it is asked for every three seconds. Nothing is loaded from another host.
import { WORDS } from '/static/words.js';

const POINTS = 20, POLL_MS = 3000, ROWS = 200;
const RANGES = { hour: ['minute', 3600], day: ['hour', 86400], month: ['day', 31 * 86400], year: ['month', 366 * 86400] };
// Pages that are a list of the ledger's subjects and what each moved.
const SUBJECTS = {
  users: { vantage: 'netfilter', kind: 'user', labels: ['name', 'addresses'] },
  machines: { vantage: 'hypervisor', kind: 'machine', labels: ['status', 'node', 'type', 'tags'] },
  interfaces: { vantage: 'netfilter', kind: 'interface', labels: [] },
};
const CHARTS = ['chart', 'endpoint-chart', 'subject-chart'];
const { createApp } = Vue;
const kept = name => { try { return localStorage.getItem(name); } catch { return null; } };
const keep = (name, value) => { try { localStorage.setItem(name, value); } catch { /* private mode: not kept */ } };

createApp({
  data: () => ({
    zone: '', trouble: '',
    pages: ['rules'], page: '', parts: {}, kinds: [], subjectPages: SUBJECTS,
    subjects: [], limits: [], subject: '', subjectPast: [], subjectRange: 'day', from: '', to: '', custom: null, behind: [], state: '', most: ROWS, found: 0, whole: null, tally: {}, one: null, beyond: {}, order: 'newest', exchanges: [], exchange: -1, turns: 0, link: 'off', locked: false, refused: false, typed: '',
    language: kept('language') || (navigator.language.startsWith('zh') ? 'zh' : 'en'),
    dark: kept('dark') ? kept('dark') === 'yes' : matchMedia('(prefers-color-scheme: dark)').matches,
    traffic: null, points: [], mappings: [], before: {}, opened: '', sought: '',
    ranges: ['live', 'hour', 'day', 'month', 'year'], range: 'live', past: [],
    spans: ['hour', 'day', 'month'], span: 'hour', endpoints: [], endpoint: '', endpointPast: [], effects: [], log: [], alerts: [],
  }),
  computed: {
    cards() {
      const d = this.traffic, p = this.points.at(-1) || {};
      return [
        { name: 'total_sent', bytes: d && this.sum(d, 'bytes_sent'), rate: p.sent }, { name: 'total_received', bytes: d && this.sum(d, 'bytes_received'), rate: p.received },
        { name: 'tunnel_sent', bytes: d?.tunnel.bytes_sent, rate: p.tunnelSent }, { name: 'tunnel_received', bytes: d?.tunnel.bytes_received, rate: p.tunnelReceived },
      ];
    },
    states() { return Object.keys(this.tally); },
    subjectCards() {
      const all = this.whole || { subjects: 0 };
      return [{ name: this.page, value: all.subjects.toLocaleString() }, ...(this.page === 'machines' ? [{ name: 'running', value: (this.tally.running || 0).toLocaleString() }] : []),
        { name: 'received', value: this.size(all.rx_bytes) }, { name: 'sent', value: this.size(all.tx_bytes) }];
    },
    subjectRow() { return this.subjects.find(s => s.subject === this.subject) || (this.one?.subject === this.subject ? this.one : undefined); },
    subjectName() { return this.subjectRow ? this.named(this.subjectRow) : this.subject; },
    subjectLabels() { return this.subjectRow?.labels || {}; },
    subjectAddresses() {
      const found = (this.subjectLabels.addresses || '').split(/[ ,]+/).filter(Boolean);
      return found.length ? found : /^[0-9a-f.:]+$/i.test(this.subject) && /[.:]/.test(this.subject) ? [this.subject] : [];
    },
    subjectEffects() { return this.effects.filter(e => e.kind === SUBJECTS[this.page]?.kind && e.subject === this.subject); },
    missing() { return this.subjectPast.filter(p => p.gap).length; },
    subjectLog() { return this.log.filter(e => e.kind === SUBJECTS[this.page]?.kind && e.subject === this.subject).slice(0, 10); },
    chartText() {
      const last = (this.range === 'live' ? this.points : this.past).at(-1) || {};
      return this.t('chart_text').replace('{s}', this.rate(last.sent)).replace('{r}', this.rate(last.received));
    },
  },
  watch: {
    language(v) { keep('language', v); document.documentElement.lang = v; this.draw(); },
    dark(v) { keep('dark', v ? 'yes' : 'no'); document.documentElement.classList.toggle('dark', v); this.redraw(); },
    range() { this.loadPast(); }, page() { this.sought = this.state = ''; this.subjects = []; this.whole = this.one = null; this.tally = {}; this.effects = []; this.log = []; this.most = ROWS; this.$nextTick(() => { this.redraw(); this.refresh(); }); },
    sought() { this.sift(); }, state() { this.sift(); }, most() { this.sift(); },
    span() { this.refresh(); }, endpoint() { this.exchange = -1; this.exchanges = []; this.loadEndpoint(); }, order() { this.exchange = -1; this.loadEndpoint(); },
    subject() { this.loadSubject(); }, subjectRange() { this.from = this.to = ''; this.loadSubject(); },
  },
  mounted() {
    document.documentElement.lang = this.language;
    document.documentElement.classList.toggle('dark', this.dark);
    addEventListener('hashchange', () => this.turn()); this.turn();
    addEventListener('resize', () => { for (const id of CHARTS) this.chartOf(id, false)?.resize(); });
    this.poll();
  },
  methods: {
    // #PAGE or #PAGE/SUBJECT
    turn() {
      const [name, ...rest] = location.hash.slice(1).split('/'), which = decodeURIComponent(rest.join('/'));
      if (name) this.page = name;
      if (name === 'endpoints') this.endpoint = which; else this.subject = SUBJECTS[name] ? which : '';
    },
    pageOf(k) {
      if (k.kind === 'endpoint') return 'endpoints';
      if (k.kind === 'mapping') return this.parts.forwarder ? 'mappings' : '';
      return Object.keys(SUBJECTS).find(p => SUBJECTS[p].kind === k.kind && SUBJECTS[p].vantage === k.vantage) || '';
    },
    named(s) { return s.labels?.name && s.labels.name !== s.subject ? `${s.labels.name} (${s.subject})` : s.subject; },
    clock(text) { return text ? new Date(text).toLocaleTimeString(this.language) : '–'; },
    async look() {
      const since = this.since(this.span);
      const found = await this.get(`/api/overview?since=${since}`);
      this.parts = found.parts; this.kinds = found.kinds; this.zone = found.time_zone; this.trouble = found.trouble;
      const shown = this.kinds.map(k => this.pageOf(k)).filter(Boolean);
      this.pages = ['overview', 'mappings', 'endpoints', ...Object.keys(SUBJECTS), 'rules'].filter(p => p === 'overview' || p === 'rules' || p === 'endpoints' || shown.includes(p) || (p === 'mappings' && this.parts.forwarder));
      if (!this.page || !this.pages.includes(this.page) && !SUBJECTS[this.page]) this.page = this.parts.forwarder ? 'mappings' : 'overview';
      if (this.parts.forwarder && !this.pushing) { this.pushing = true; this.push(); }
      if (!this.parts.forwarder) this.link = 'polling';
    },
    t(name) { return (WORDS[name] || [name, name])[this.language === 'zh' ? 1 : 0]; },
    // In binary units what was set in them.
    size(bytes, binary) {
      if (bytes === undefined || bytes === null) return '–';
      const units = binary ? ['B', 'KiB', 'MiB', 'GiB', 'TiB'] : ['B', 'kB', 'MB', 'GB', 'TB'];
      for (const unit of units) {
        if (bytes < 999.5 || unit === units[4]) return (unit === 'B' || bytes >= 99.95 ? bytes.toFixed(0) : bytes.toPrecision(3)) + ' ' + unit;
        bytes /= binary ? 1024 : 1000;
      }
    },
    rate(bytes) { return bytes === undefined || bytes === null ? '–' : (bytes / 1024).toLocaleString(this.language, { maximumFractionDigits: 1 }) + ' ' + this.t('kilobytes'); },
    when(seconds) { return new Date(seconds * 1000).toLocaleString(this.language); },
    token() { try { return sessionStorage.getItem('token') || ''; } catch { return ''; } },
    unlock() { sessionStorage.setItem('token', this.typed); this.typed = ''; this.locked = false; if (this.pushing) this.push(); this.look().then(() => this.refresh()).catch(() => {}); },
    async ask(path) {
      const token = this.token();
      const response = await fetch(path, { headers: { 'Accept-Language': this.language, ...(token ? { Authorization: 'Bearer ' + token } : {}) } });
      if (response.status === 401) { this.locked = true; this.refused = Boolean(token); throw new Error('locked'); }
      if (!response.ok) throw new Error((await response.json()).message);
      this.refused = false;
      return response;
    },
    async get(path) { return (await (await this.ask(path)).json()).data; },
    // Some rows of a list, and how many there are.
    async some(path) { const response = await this.ask(path); return [(await response.json()).data, Number(response.headers.get('X-Total-Count'))]; },
    // Where a range begins: the same for a whole minute, so that what did not change is not sent again.
    since(range) { return Math.floor(Date.now() / 60000) * 60 - RANGES[range][1]; },
    // What is searched for is asked for when the typing rests.
    sift() { clearTimeout(this.sifting); this.sifting = setTimeout(() => this.refresh().catch(() => {}), 200); },
    push() {
      if (this.locked) return;
      const token = this.token(), place = location.origin.replace(/^http/, 'ws') + '/api/stats/ws';
      const socket = token ? new WebSocket(place, ['bearer', token]) : new WebSocket(place);
      socket.onmessage = event => { this.link = 'live'; this.took(JSON.parse(event.data)); };
      socket.onclose = () => { if (this.link === 'live') this.link = 'off'; setTimeout(() => this.push(), 5000); };
    },
    async poll() {
      if (!this.locked) {
        try {
          if (!this.page || this.page === 'overview' || this.turns++ % (this.page === 'machines' ? 3 : 10) === 0) await this.look();
          if (this.parts.forwarder && this.link !== 'live') { this.took(await this.get('/api/stats/traffic')); this.link = 'polling'; }
          await this.refresh();
        } catch { if (this.link !== 'live') this.link = 'off'; }
      }
      setTimeout(() => this.poll(), POLL_MS);
    },
    // A tunnel carries what its mappings move: a byte counts once, though the API's own totals hold it twice.
    sum(d, key) { return d.mappings.reduce((n, m) => n + m[key], 0); },
    took(now) {
      const sum = this.sum;
      const last = this.traffic, at = performance.now() / 1000, seconds = at - this.tookAt;
      if (last && seconds > .2) {
        const grown = (a, b) => Math.max(0, a - b) / seconds;
        this.points = [...this.points, {
          at: now.timestamp, sent: grown(sum(now, 'bytes_sent'), sum(last, 'bytes_sent')), received: grown(sum(now, 'bytes_received'), sum(last, 'bytes_received')),
          tunnelSent: grown(now.tunnel.bytes_sent, last.tunnel.bytes_sent), tunnelReceived: grown(now.tunnel.bytes_received, last.tunnel.bytes_received),
        }].slice(-POINTS);
      }
      this.traffic = now; this.tookAt = at;
      if (this.range === 'live') this.draw();
    },
    async refresh() {
      if (this.page === 'mappings') {
        const at = performance.now() / 1000;
        const [rows, found] = await this.some(`/api/mapping/list?limit=${this.most}&search=${encodeURIComponent(this.sought)}`);
        this.found = found;
        this.mappings = rows.map(m => {
          const moved = m.bytes_sent + m.bytes_received, last = this.before[m.name];
          const rate = last ? Math.max(0, moved - last.moved) / (at - last.at) : undefined;
          this.before[m.name] = { moved, at };
          return { ...m, rate, used: moved, share: m.flow_limit_mb ? moved / (m.flow_limit_mb * 1048576) : 0 };
        });
        if (this.range !== 'live') await this.loadPast();
      } else if (this.page === 'endpoints') {
        const { rows, whole } = await this.get(`/api/totals?vantage=wire&kind=endpoint&since=${this.since(this.span)}&limit=100`);
        this.endpoints = rows.map(r => ({ ...r, share: r.total_bytes / (whole.total_bytes || 1) }));
        await this.loadEndpoint();
      } else if (SUBJECTS[this.page]) {
        // Machines that moved nothing, such as one that is stopped, are there too.
        const question = () => this.ofSubjects() + `&limit=${this.most}&search=${encodeURIComponent(this.sought)}` + (this.page === 'machines' ? '&tally=status' : '')
          + (this.state ? `&label=${encodeURIComponent('status=' + this.state)}` : '');
        const asked = question(), [{ rows, whole, tally }, found] = await this.some(asked);
        if (!SUBJECTS[this.page] || asked !== question()) return; // something else is shown by now
        this.whole = whole; this.tally = tally || {}; this.found = found;
        this.subjects = rows.map(r => this.shared(r));
        if (this.subject) await (this.custom ? this.loadRules() : this.loadSubject());
      } else if (this.page === 'rules') await this.loadRules(); else if (this.page === 'overview') await this.look();
    },
    async loadRules() {
      const { vantage, kind } = SUBJECTS[this.page] || {};
      if (kind && !this.subject) return;
      const whose = kind ? `vantage=${vantage}&kind=${kind}&subject=${encodeURIComponent(this.subject)}&` : '', beyond = {};
      if (!kind) { const [rows, all] = await this.some(`/api/alerts?limit=${ROWS}`); this.alerts = rows; beyond.alerts = all - rows.length; }
      const [rows, all] = await this.some(`/api/rules/effects?${whose}limit=${ROWS}`);
      this.effects = rows; beyond.effects = all - rows.length;
      this.log = (await this.get(`/api/rules/log?${whose}most=${kind ? 10 : ROWS}`)).reverse();
      this.beyond = beyond;
    },
    ofSubjects() {
      const { vantage, kind } = SUBJECTS[this.page];
      return `/api/totals?vantage=${vantage}&kind=${kind}&since=${this.since(this.span)}` + (kind === 'machine' ? '&idle=true' : '');
    },
    shared(row) { return { ...row, share: row.total_bytes / (this.whole?.total_bytes || 1) }; },
    async loadSubject() {
      if (!this.subject || !SUBJECTS[this.page]) return;
      const { vantage, kind } = SUBJECTS[this.page], name = this.glob(this.subject);
      this.custom = this.from ? { from: this.from, to: this.to } : null;
      if (!this.subjects.some(s => s.subject === this.subject)) {
        const { rows } = await this.get(`/api/totals?vantage=${vantage}&kind=${kind}&since=${this.since(this.span)}&idle=true&limit=1&subject=${name}`);
        this.one = rows.length ? this.shared(rows[0]) : null;
      }
      await this.loadRules();
      this.limits = await this.get(`/api/limits?vantage=${vantage}&kind=${kind}&subject=${encodeURIComponent(this.subject)}`).catch(() => []);
      this.subjectPast = await this.history(this.subjectRange, `vantage=${vantage}&kind=${kind}&subject=${name}`, this.custom);
      if (this.parts.exchanges && this.subjectAddresses.length) {
        const since = this.since(this.span), found = {};
        for (const address of this.subjectAddresses.slice(0, 8)) for (const e of await this.get(`/api/endpoints?address=${encodeURIComponent(address)}&since=${since}&most=20`)) {
          const at = found[e.endpoint] ||= { endpoint: e.endpoint, total_bytes: 0, requests: 0 };
          at.total_bytes += e.total_bytes; at.requests += e.requests;
        }
        this.behind = Object.values(found).sort((a, b) => b.total_bytes - a.total_bytes).slice(0, 20);
      }
      await this.$nextTick();
      this.paint('subject-chart', this.subjectPast, this.custom || this.subjectRange !== 'hour');
    },
    usedOf(l) {
      const show = n => l.metric === 'bytes' ? this.size(n, l.binary) : Math.round(n).toLocaleString(this.language);
      return this.t('used_of').replace('{u}', show(l.used)).replace('{a}', show(l.allowed)).replace('{r}', show(l.remaining));
    },
    glob(name) { return encodeURIComponent(name.replace(/[[*?]/g, '[$&]')); },
    open(name) { this.opened = this.opened === name ? '' : name; },
    zoom(turned) {
      const next = this.ranges[this.ranges.indexOf(this.range) + (turned > 0 ? 1 : -1)];
      const now = Date.now();
      if (next && now - (this.zoomed || 0) > 300) { this.zoomed = now; this.range = next; }
    },
    // The buckets and the span of a range, or of dates that were chosen.
    spanOf(range, custom) {
      if (!custom) { const [period, seconds] = RANGES[range]; return [period, `since=${Math.floor(Date.now() / 60000) * 60 - seconds}`]; }
      const begin = Date.parse(custom.from), end = custom.to ? Date.parse(custom.to) + 864e5 : Date.now();
      return [end - begin > 3 * 864e5 ? 'day' : 'hour', `since=${custom.from}` + (custom.to ? `&until=${new Date(end).toISOString().slice(0, 10)}` : '')];
    },
    async history(range, question, custom) {
      const [period, span] = this.spanOf(range, custom);
      const { rows, buckets } = await this.get(`/api/history?period=${period}&${span}&by=all&${question}`);
      const moved = {};
      for (const r of rows) { const at = moved[r.time] ||= { sent: 0, received: 0 }; at.sent += r.tx_bytes; at.received += r.rx_bytes; }
      return buckets.map(b => {
        const at = moved[b.time] || { sent: 0, received: 0 };
        // Of half of it or more nobody knows when it was moved.
        return { at: Date.parse(b.time) / 1000, sent: at.sent / b.seconds, received: at.received / b.seconds, gap: b.gap_seconds > 0 && b.gap_seconds >= b.covered_seconds };
      });
    },
    async loadPast() {
      if (this.range !== 'live') this.past = await this.history(this.range, 'vantage=forwarder&kind=mapping');
      this.draw();
    },
    async loadEndpoint() {
      if (!this.endpoint) return;
      this.endpointPast = await this.history(this.span, `vantage=wire&kind=endpoint&subject=${this.glob(this.endpoint)}`);
      if (this.parts.exchanges && this.exchange < 0) {
        const since = this.since(this.span);
        this.exchanges = await this.get(`/api/exchanges?endpoint=${encodeURIComponent(this.endpoint)}&since=${since}&order=${this.order}&most=50`);
      }
      await this.$nextTick();
      this.paint('endpoint-chart', this.endpointPast, this.span !== 'hour');
    },
    chartOf(id, make = true) {
      const place = document.getElementById(id);
      return !place ? null : echarts.getInstanceByDom(place) || (make ? echarts.init(place, null, { renderer: 'svg' }) : null);
    },
    redraw() { for (const id of CHARTS) this.chartOf(id, false)?.dispose(); this.$nextTick(() => { this.draw(); if (this.endpoint) this.loadEndpoint(); if (this.subject) this.loadSubject(); }); },
    draw() { if (this.page === 'mappings' && !this.locked) this.paint('chart', this.range === 'live' ? this.points : this.past, !['live', 'hour'].includes(this.range)); },
    paint(id, points, days) {
      const chart = this.chartOf(id);
      if (!chart) return;
      const style = getComputedStyle(document.documentElement), colour = name => style.getPropertyValue(name).trim();
      const shown = at => days ? new Date(at * 1000).toLocaleString(this.language, { month: 'numeric', day: 'numeric', hour: '2-digit', minute: '2-digit' }) : new Date(at * 1000).toLocaleTimeString(this.language);
      const value = (p, key) => +(p[key] / 1024).toFixed(2), near = i => points.slice(Math.max(0, i - 1), i + 2).some(p => p.gap);
      const line = (name, key, ink) => ({ name, type: 'line', showSymbol: points.length < 3, smooth: false, areaStyle: { opacity: .12 }, color: colour(ink), data: points.map(p => p.gap ? null : value(p, key)) });
      // Where readings are missing the line is broken, and dotted at the even share.
      const dotted = (key, ink) => ({ name: this.t('no_readings'), type: 'line', showSymbol: false, color: colour(ink), lineStyle: { type: 'dotted', width: 2 }, data: points.map((p, i) => near(i) ? value(p, key) : null) });
      const series = [line(this.t('sent'), 'sent', '--sent'), line(this.t('received'), 'received', '--received')];
      if (points.some(p => p.gap)) series.push(dotted('sent', '--sent'), dotted('received', '--received'));
      chart.setOption({
        animation: false, textStyle: { color: colour('--ink') }, grid: { left: 64, right: 16, top: 36, bottom: 28 }, legend: { top: 0, textStyle: { color: colour('--ink') } },
        tooltip: { trigger: 'axis', valueFormatter: v => v + ' ' + this.t('kilobytes') },
        xAxis: { type: 'category', data: points.map(p => shown(p.at)), axisLabel: { color: colour('--soft') } },
        yAxis: { type: 'value', name: this.t('kilobytes'), axisLabel: { color: colour('--soft') }, splitLine: { lineStyle: { color: colour('--line') } } },
        series,
      }, true);
    },
    async report(format) {
      const s = SUBJECTS[this.page];
      const question = this.page === 'endpoints' ? 'vantage=wire&kind=endpoint' : s ? `vantage=${s.vantage}&kind=${s.kind}` + (this.subject ? `&subject=${this.glob(this.subject)}` : '')
        : this.page === 'mappings' ? 'vantage=forwarder&kind=mapping' : '';
      const range = this.page === 'mappings' ? (this.range === 'live' ? 'hour' : this.range) : s && this.subject ? this.subjectRange : this.page === 'rules' ? 'month' : this.span;
      const [period, span] = this.spanOf(range, s && this.subject ? this.custom : null);
      const body = await (await this.ask(`/api/report?format=${format}&period=${period}&${span}&dark=${this.dark}&${question}`)).blob();
      const link = Object.assign(document.createElement('a'), { href: URL.createObjectURL(body), download: `usage.${format}` });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    },
  },
}).mount('#app');
